package everstep

import (
	"context"
	"log/slog"
)

// Logger is for workflow code and steps. Records of a workflow carry run, workflow, attempt (of the run) and replaying, and while recorded calls are
// handed back those below Warn are dropped: code between steps runs again on every resume, which would repeat its lines. Records of a step carry run,
// workflow, step and attempt (of the step). Outside a run it is slog.Default().
func Logger(ctx context.Context) *slog.Logger {
	b, step := where(ctx)
	var x *execution
	switch {
	case b != nil:
		x = b.execution
	case step != nil:
		x = step.execution
	default:
		return slog.Default()
	}
	logger := x.app.logger().With(slog.String("run", x.run), slog.String("workflow", x.name))
	if step != nil {
		return logger.With(slog.String("step", step.step.name), slog.Int64("attempt", step.step.attempt))
	}
	return slog.New(&replayHandler{logger.With(slog.Int64("attempt", x.attempt)).Handler(), x})
}

// replayHandler drops what a replay would repeat.
type replayHandler struct {
	slog.Handler
	execution *execution
}

func (h *replayHandler) Enabled(ctx context.Context, level slog.Level) bool {
	if level < slog.LevelWarn && h.execution.replaying.Load() {
		return false
	}
	return h.Handler.Enabled(ctx, level)
}

func (h *replayHandler) Handle(ctx context.Context, record slog.Record) error {
	record.AddAttrs(slog.Bool("replaying", h.execution.replaying.Load()))
	return h.Handler.Handle(ctx, record)
}

func (h *replayHandler) WithAttrs(attributes []slog.Attr) slog.Handler {
	return &replayHandler{h.Handler.WithAttrs(attributes), h.execution}
}

func (h *replayHandler) WithGroup(name string) slog.Handler {
	return &replayHandler{h.Handler.WithGroup(name), h.execution}
}

func levelOf(level string) slog.Level {
	switch level {
	case "debug":
		return slog.LevelDebug
	case "warning", "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}
