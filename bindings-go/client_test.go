package everstep

import (
	"bytes"
	"errors"
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

// Its length crosses the border as 32 bits: one more would be a negative length, or the beginning of the frame for the whole of it.
func TestWhatIsTooLongForTheBorderIsRefused(t *testing.T) {
	if err := fits(mostSent); err != nil {
		t.Error(err)
	}
	if err := fits(mostSent + 1); !errors.Is(err, ErrPayloadTooLarge) {
		t.Error(err)
	}
}

// The cause of a context is one error for all who see it, on whatever goroutine.
func TestAnErrorThatIsSharedIsNotWrittenTo(t *testing.T) {
	shared := refuse(ErrStopped, "this run's function has returned")
	h := &handle{key: "a key"}
	err := h.about(shared)
	var named *Error
	if shared.Run != "" || !errors.As(err, &named) || named.Run != "a key" || !errors.Is(err, ErrStopped) {
		t.Errorf("%q, %v", shared.Run, err)
	}
	if other := (&handle{key: "another"}).about(err); other != err {
		t.Errorf("renamed: %v", other)
	}
}
