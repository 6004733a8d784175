package everpgx_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"syscall"
	"testing"
	"time"

	"context"

	"github.com/jackc/pgx/v5"
)

// server is EVERSTEP_TEST_PG, or a PostgreSQL of the tests' own.
var server string

func TestMain(m *testing.M) {
	code, err := withServer(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withServer(run func() int) (int, error) {
	if server = os.Getenv("EVERSTEP_TEST_PG"); server != "" {
		return run(), nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if bin := os.Getenv("EVERSTEP_PG_BIN"); bin != "" {
		found = []string{bin}
	}
	if err != nil || len(found) == 0 {
		return 1, fmt.Errorf("no PostgreSQL here: set EVERSTEP_TEST_PG or EVERSTEP_PG_BIN, or install postgresql-15 (%v)", err)
	}
	sort.Strings(found)
	bin := found[len(found)-1]
	directory, err := os.MkdirTemp("", "everstep-go-pg-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(directory)
	// PostgreSQL refuses to run as root.
	as := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		postgres, err := user.Lookup("postgres")
		if err != nil {
			return 1, err
		}
		uid, _ := strconv.ParseUint(postgres.Uid, 10, 32)
		gid, _ := strconv.ParseUint(postgres.Gid, 10, 32)
		as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(directory, int(uid), int(gid)); err != nil {
			return 1, err
		}
	}
	data := filepath.Join(directory, "db")
	made := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")
	made.SysProcAttr, made.Dir = as, directory
	if out, err := made.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	// Where a password is needed, for the test of a wrong one.
	rules := filepath.Join(data, "pg_hba.conf")
	trusting, err := os.ReadFile(rules)
	if err != nil {
		return 1, err
	}
	if err := os.WriteFile(rules, append([]byte("host all guarded all scram-sha-256\n"), trusting...), 0o600); err != nil {
		return 1, err
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 1, err
	}
	port := free.Addr().(*net.TCPAddr).Port
	if err := free.Close(); err != nil {
		return 1, err
	}
	running := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-p", strconv.Itoa(port), "-c", "listen_addresses=127.0.0.1",
		"-c", "unix_socket_directories="+directory, "-c", "fsync=off")
	running.SysProcAttr, running.Dir = as, directory
	if err := running.Start(); err != nil {
		return 1, err
	}
	defer func() {
		if err := running.Process.Signal(syscall.SIGQUIT); err == nil {
			_ = running.Wait() // It was told to end at once, and says so.
		}
	}()
	server = fmt.Sprintf("postgres://postgres@127.0.0.1:%d", port)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		connection, err := pgx.Connect(context.Background(), server+"/postgres")
		if err == nil {
			return run(), connection.Close(context.Background())
		}
		if time.Now().After(end) {
			return 1, err
		}
	}
}

// database is one of the test's own.
func database(t *testing.T) string {
	t.Helper()
	ctx := context.Background()
	name := "go_" + strconv.FormatInt(time.Now().UnixNano(), 36)
	connection, err := pgx.Connect(ctx, server+"/postgres")
	must(t, err)
	_, err = connection.Exec(ctx, "create database "+name)
	must(t, err)
	must(t, connection.Close(ctx))
	return server + "/" + name
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
