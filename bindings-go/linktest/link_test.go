package linktest

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"

	everstep "github.com/everstep/everstep/bindings-go"
)

func TestThreeLibrariesInOneProgram(t *testing.T) {
	ctx := context.Background()
	directory := t.TempDir()
	// A file of the program's own: the engine's is opened by the engine alone.
	db, err := sql.Open("sqlite3", filepath.Join(directory, "own.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("create table seen (n integer)"); err != nil {
		t.Fatal(err)
	}
	app, err := everstep.Open(ctx, everstep.WithDatabase("sqlite:"+filepath.Join(directory, "everstep.db")))
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close(ctx)
	w, err := everstep.Register(app, "links", func(ctx everstep.Context, text string) (int, error) {
		return everstep.Do(ctx, "all three", func(ctx context.Context) (int, error) {
			length := OtherLength([]byte(text))
			_, err := db.ExecContext(ctx, "insert into seen values (?)", length)
			return length, err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := app.Launch(ctx); err != nil {
		t.Fatal(err)
	}
	inputs := make([]string, 50)
	for i := range inputs {
		inputs[i] = "eleven char"
	}
	runs, err := w.StartMany(ctx, inputs)
	if err != nil {
		t.Fatal(err)
	}
	for _, run := range runs {
		if out, err := run.Result(ctx, everstep.WithTimeout(20*time.Second)); out != 11 || err != nil {
			t.Fatalf("%d, %v", out, err)
		}
	}
	var count, own int
	if err := db.QueryRow("select count(*) from seen where n = 11").Scan(&count); err != nil || count != 50 {
		t.Errorf("%d rows, %v", count, err)
	}
	var version string
	if err := db.QueryRow("select sqlite_version()").Scan(&version); err != nil || version == "" {
		t.Errorf("%q, %v", version, err)
	}
	if err := db.QueryRow("select count(*) from sqlite_master where name = 'run'").Scan(&own); err != nil || own != 0 {
		t.Errorf("the engine's tables are in the program's file: %d, %v", own, err)
	}
}
