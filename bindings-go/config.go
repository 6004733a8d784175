package everstep

import (
	"log/slog"
	"time"
)

// EngineOption is an option of Open. What is not given is resolved by the engine: environment variables (EVERSTEP_DATABASE_URL, EVERSTEP_ENV), then
// the defaults of core/docs/protocol.md, "Configuration".
type EngineOption interface{ applyEngine(*engineOptions) }

type engineOptions struct {
	settings map[string]any
	logger   *slog.Logger
}

type engineOption func(*engineOptions)

func (f engineOption) applyEngine(o *engineOptions) { f(o) }

// WithSetting sets a key of the configuration by its name, for those without an option of their own.
func WithSetting(key string, value any) EngineOption {
	return engineOption(func(o *engineOptions) { o.settings[key] = value })
}

// WithDatabase names the database: postgres://user@host/name or sqlite:path.
func WithDatabase(url string) EngineOption { return WithSetting("database", url) }

// WithSchema names the PostgreSQL schema the engine keeps its tables in; default everstep.
func WithSchema(name string) EngineOption { return WithSetting("schema", name) }

// WithNamespace isolates applications in one database; default default.
func WithNamespace(name string) EngineOption { return WithSetting("namespace", name) }

// WithEnvironment names the environment; a worker of another one claims nothing (see Adopt). Default EVERSTEP_ENV, else development.
func WithEnvironment(name string) EngineOption { return WithSetting("environment", name) }

// WithBuild is the application's build id: a version, a commit. A run that was blocked because the program no longer fits it is offered once to each
// build; without an id every launch counts as a build of its own.
func WithBuild(id string) EngineOption { return WithSetting("version", id) }

// Role is what a process does.
type Role string

const (
	// Worker claims and runs.
	Worker Role = "worker"
	// Starter starts, and runs nothing itself.
	Starter Role = "starter"
	// Client starts, inspects and awaits; it claims nothing and needs no workflows.
	Client Role = "client"
)

// WithRole says what this process does; default Worker.
func WithRole(role Role) EngineOption { return WithSetting("role", string(role)) }

// WithQueues names the queues this worker serves; default all; none: only runs without a queue.
func WithQueues(names ...string) EngineOption {
	if names == nil {
		names = []string{}
	}
	return WithSetting("queues", names)
}

// WithSlots bounds how many runs execute at once; default 100. A run that waits holds none.
func WithSlots(count int) EngineOption { return WithSetting("slots", count) }

// WithLease is how long a worker that is silent keeps its runs; default 10 s.
func WithLease(lease time.Duration) EngineOption {
	return WithSetting("lease_ms", milliseconds(lease))
}

// WithOutageBudget is how long calls from outside a run wait for the database, then ErrUnavailable; default 5 min.
func WithOutageBudget(budget time.Duration) EngineOption {
	return WithSetting("outage_budget_ms", milliseconds(budget))
}

// WithMaxPayload bounds an encoded value, in bytes; default 16 MiB.
func WithMaxPayload(bytes int) EngineOption { return WithSetting("max_payload", bytes) }

// WithAutoMigrate: true migrates always, false never; the default migrates SQLite and empty databases.
func WithAutoMigrate(always bool) EngineOption { return WithSetting("auto_migrate", always) }

// WithReplayAlways releases a run at every wait and replays it before every step: the surprise comes in the first unit test.
func WithReplayAlways() EngineOption { return WithSetting("replay", "always") }

// WithLogger is where the engine and the workflows' loggers write; slog.Default() otherwise.
func WithLogger(logger *slog.Logger) EngineOption {
	return engineOption(func(o *engineOptions) { o.logger = logger })
}

// milliseconds are rounded up: a wait is never shorter than asked for.
func milliseconds(d time.Duration) int64 {
	whole := int64(d / time.Millisecond)
	if d%time.Millisecond > 0 {
		whole++
	}
	return whole
}

// The years 1 to 9999 have a form in RFC 3339 and in both stores.
var (
	firstTime = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	lastTime  = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// microseconds of a time beyond either are its: it means always or never, and must not wrap around to the other one.
func microseconds(t time.Time) int64 {
	switch {
	case t.Before(firstTime):
		t = firstTime
	case t.After(lastTime):
		t = lastTime
	}
	return t.UnixMicro()
}
