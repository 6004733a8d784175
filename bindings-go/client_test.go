package everstep

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/everstep/everstep/bindings-go/internal/frame"
	"github.com/everstep/everstep/bindings-go/internal/ops"
)

// The answer to a request may be on its way when the context of who asked ends.
func TestAFailureOfARequestThatWasGivenUpIsNoNews(t *testing.T) {
	var logged bytes.Buffer
	c := &client{app: &App{log: slog.New(slog.NewTextHandler(&logged, nil))}, waiting: map[uint64]chan answer{}}
	failed := frame.New().Str(string(ErrResultTimeout)).Str("not finished yet").Data()
	c.event(frame.Event{Token: 5, Kind: ops.EventFailed, Frame: failed})
	if logged.Len() > 0 {
		t.Error(logged.String())
	}
	c.event(frame.Event{Token: unawaited + 6, Kind: ops.EventFailed, Frame: failed})
	if !strings.Contains(logged.String(), "not finished yet") {
		t.Errorf("logged %q", logged.String())
	}
}
