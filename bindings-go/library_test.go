package everstep_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// opens is a program that says what Open returned.
const opens = `package main

import (
	"context"
	"errors"
	"fmt"

	everstep "github.com/everstep/everstep/bindings-go"
)

func main() {
	app, err := everstep.Open(context.Background())
	fmt.Println(app != nil, errors.Is(err, everstep.ErrConfigInvalid), err)
}
`

// built runs the program above, built with these files in place of others and this environment.
func built(t *testing.T, instead map[string]string, environment ...string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a program")
	}
	directory := t.TempDir()
	program := filepath.Join(directory, "main.go")
	must(t, os.WriteFile(program, []byte(opens), 0o600))
	overlay := filepath.Join(directory, "overlay.json")
	text, err := json.Marshal(map[string]any{"Replace": instead})
	must(t, err)
	must(t, os.WriteFile(overlay, text, 0o600))
	command := exec.Command("go", "run", "-overlay", overlay, program)
	command.Env = append(os.Environ(), environment...)
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

func TestWithoutCgoAProgramBuildsAndOpenSaysWhy(t *testing.T) {
	if out := built(t, nil, "CGO_ENABLED=0"); !strings.HasPrefix(out, "false true [config_invalid]") || !strings.Contains(out, "CGO_ENABLED=1") {
		t.Error(out)
	}
}

func TestALibraryOfAnotherBuildIsRefusedBeforeItsFirstCall(t *testing.T) {
	source, err := filepath.Abs("internal/ffi/identity.go")
	must(t, err)
	text, err := os.ReadFile(source)
	must(t, err)
	for says, change := range map[string][2]string{
		"this package is": {`Abi = "0.1.0/1"`, `Abi = "0.1.1/1"`}, "the functions submit have other checksums": {"checksumSubmit   = ", "checksumSubmit   = 1 + "},
		"its contract version": {"contractVersion = ", "contractVersion = 1 + "},
	} {
		other := filepath.Join(t.TempDir(), "identity.go")
		changed := strings.Replace(string(text), change[0], change[1], 1)
		if changed == string(text) {
			t.Fatalf("identity.go has no %q", change[0])
		}
		must(t, os.WriteFile(other, []byte(changed), 0o600))
		if out := built(t, map[string]string{source: other}); !strings.HasPrefix(out, "false true [config_invalid]") || !strings.Contains(out, says) {
			t.Errorf("%s: %s", says, out)
		}
	}
}
