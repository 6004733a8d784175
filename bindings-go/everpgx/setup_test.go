package everpgx_test

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	everstep "github.com/everstep/everstep/bindings-go"
)

// prepare runs statements as the owner of everything.
func prepare(t *testing.T, url string, statements ...string) {
	t.Helper()
	ctx := context.Background()
	connection, err := pgx.Connect(ctx, url)
	must(t, err)
	for _, statement := range statements {
		_, err := connection.Exec(ctx, statement)
		must(t, err)
	}
	must(t, connection.Close(ctx))
}

// role is a url of the same database as another user, who may log in with this password.
func role(t *testing.T, url, name, password string, rights ...string) string {
	t.Helper()
	prepare(t, url, append([]string{"drop role if exists " + name, "create role " + name + " login password '" + password + "'"}, rights...)...)
	return strings.Replace(url, "postgres://postgres@", "postgres://"+name+":"+password+"@", 1)
}

// deaf accepts connections and never says a word.
func deaf(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var open []net.Conn
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			open = append(open, connection)
		}
	}()
	t.Cleanup(func() {
		must(t, listener.Close())
		<-over
		for _, connection := range open {
			_ = connection.Close() // The other end may have gone first.
		}
	})
	return listener.Addr().String()
}

func TestASetUpThatCannotWorkSaysWhatToDo(t *testing.T) {
	const password = "s3cretly"
	ready := database(t)
	migrated := open(t, ready)
	must(t, migrated.Launch(context.Background()))
	newer := database(t)
	app := open(t, newer)
	must(t, app.Launch(context.Background()))
	prepare(t, newer, "update everstep.meta set value = '1000' where key = 'min_compatible'")
	empty, read := database(t), database(t)
	no := "no_" + empty[strings.LastIndexByte(empty, '_')+1:]

	for name, c := range map[string]struct {
		url  string
		code everstep.Code
		says string
	}{
		"wrong password":     {strings.Replace(role(t, ready, "guarded", password+"!"), password+"!@", password+"@", 1), everstep.ErrDatabaseAuth, "password"},
		"nobody listens":     {"postgres://somebody:" + password + "@127.0.0.1:1/nothing", everstep.ErrDatabaseUnreachable, "127.0.0.1:1"},
		"no such host":       {"postgres://somebody:" + password + "@everstep.invalid/nothing", everstep.ErrDatabaseUnreachable, "everstep.invalid"},
		"no such database":   {server + "/everstep_missing", everstep.ErrConfigInvalid, "everstep_missing"},
		"read-only":          {role(t, read, "reads_"+no, password, "alter role reads_"+no+" set default_transaction_read_only = on"), everstep.ErrDatabaseReadOnly, "primary"},
		"no right to create": {role(t, empty, "may_"+no, password), everstep.ErrNoDDLRight, "migration"},
		"schema too new":     {newer, everstep.ErrSchemaTooNew, "1000"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "wrong password" && os.Getenv("EVERSTEP_TEST_PG") != "" {
				t.Skip("whether this server asks for one is its own business")
			}
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			app, err := everstep.Open(ctx, everstep.WithDatabase(c.url), everstep.WithEnvironment("test"), everstep.WithOutageBudget(time.Second))
			must(t, err)
			defer func() { must(t, app.Close(ctx)) }()
			err = app.Launch(ctx)
			if !errors.Is(err, c.code) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("wanted %s and %q, got %v", c.code, c.says, err)
			}
			if err != nil && strings.Contains(err.Error(), password) {
				t.Errorf("shows the password: %v", err)
			}
		})
	}
}

func TestALaunchWhereNobodyAnswersEndsWithItsContext(t *testing.T) {
	app, err := everstep.Open(context.Background(), everstep.WithDatabase("postgres://somebody@"+deaf(t)+"/nothing"), everstep.WithEnvironment("test"))
	must(t, err)
	bounded, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := app.Launch(bounded); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	must(t, app.Close(bounded))
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestProductionNamesItsDatabase(t *testing.T) {
	t.Setenv("EVERSTEP_ENV", "production")
	t.Setenv("EVERSTEP_DATABASE_URL", "")
	must(t, os.Unsetenv("EVERSTEP_DATABASE_URL"))
	t.Chdir(t.TempDir())
	ctx := context.Background()
	app, err := everstep.Open(ctx)
	if err == nil {
		err = app.Launch(ctx)
		must(t, app.Close(ctx))
	}
	if !errors.Is(err, everstep.ErrNoDatabase) {
		t.Errorf("got %v", err)
	}
	left, err := os.ReadDir(".")
	if err != nil || len(left) != 0 {
		t.Errorf("a file was made: %v, %v", left, err)
	}
}
