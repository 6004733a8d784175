// Command proxy packs the Go modules of this repository as a module proxy serves them (go.dev/ref/mod#goproxy-protocol), into a directory that
// GOPROXY=file://DIRECTORY reads. Its arguments are the directory, the version, and bindings-go.
//
// What is packed is what git tracks, and the static library, which git does not: it is built before, and committed on release tags alone.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// The modules somebody requires; the others of this repository are for working on it.
var modules = []string{".", "everpgx", "vet", "lib/linux-amd64"}

// file is one file of a module.
type file struct{ path, name string }

func (f file) Path() string                 { return f.name }
func (f file) Lstat() (os.FileInfo, error)  { return os.Lstat(f.path) }
func (f file) Open() (io.ReadCloser, error) { return os.Open(f.path) }

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: proxy DIRECTORY VERSION BINDINGS-GO")
		os.Exit(2)
	}
	for _, path := range modules {
		if err := pack(os.Args[1], os.Args[2], os.Args[3], path); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
			os.Exit(1)
		}
	}
}

func pack(out, version, root, path string) error {
	directory := filepath.Join(root, path)
	text, err := os.ReadFile(filepath.Join(directory, "go.mod"))
	if err != nil {
		return err
	}
	parsed, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		return err
	}
	files, err := filesOf(root, path)
	if err != nil {
		return err
	}
	escaped, err := module.EscapePath(parsed.Module.Mod.Path)
	if err != nil {
		return err
	}
	versions := filepath.Join(out, escaped, "@v")
	if err := os.MkdirAll(versions, 0o755); err != nil {
		return err
	}
	archive, err := os.Create(filepath.Join(versions, version+".zip"))
	if err != nil {
		return err
	}
	defer archive.Close()
	// It checks what a proxy would: sizes, names, no file of a module inside.
	if err := zip.Create(archive, module.Version{Path: parsed.Module.Mod.Path, Version: version}, files); err != nil {
		return err
	}
	info, err := json.Marshal(map[string]any{"Version": version, "Time": time.Now().UTC().Format(time.RFC3339)})
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{"list": []byte(version + "\n"), version + ".mod": text, version + ".info": info} {
		if err := os.WriteFile(filepath.Join(versions, name), content, 0o644); err != nil {
			return err
		}
	}
	size, err := archive.Stat()
	if err == nil {
		fmt.Printf("%s %s: %d files, %.1f MB\n", parsed.Module.Mod.Path, version, len(files), float64(size.Size())/1e6)
	}
	return err
}

// filesOf are the module's files: tracked, not of a module inside, and neither the crate the library is built from nor what is for working on it.
func filesOf(root, path string) ([]zip.File, error) {
	directory := filepath.Join(root, path)
	listed, err := exec.Command("git", "-C", directory, "ls-files", "-z", ".").Output()
	if err != nil {
		return nil, fmt.Errorf("git ls-files: %w", err)
	}
	var names, inner []string
	for _, name := range strings.Split(strings.TrimRight(string(listed), "\x00"), "\x00") {
		names = append(names, name)
		if folder, isModule := strings.CutSuffix(name, "/go.mod"); isModule {
			inner = append(inner, folder+"/")
		}
	}
	if path != "." {
		names = append(names, "libeverstep_go.a")
	}
	// A module of a subdirectory carries the licence of its repository.
	out := []zip.File{file{filepath.Join(root, "..", "LICENSE"), "LICENSE"}}
	for _, name := range names {
		full := filepath.Join(directory, name)
		if _, err := os.Stat(full); err != nil || within(name, inner) || within(name, []string{"src/", "tests/", "Cargo.toml", ".gitignore"}) {
			continue
		}
		out = append(out, file{full, name})
	}
	if path == "lib/linux-amd64" && len(out) < 4 {
		return nil, fmt.Errorf("there is no library here: run tests/scripts/go.sh first")
	}
	return out, nil
}

func within(name string, folders []string) bool {
	for _, folder := range folders {
		if strings.HasPrefix(name, folder) {
			return true
		}
	}
	return false
}
