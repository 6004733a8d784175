// Package child is how a program under measurement talks to whoever measures: one line of JSON a word (see tests/bench/child.py).
package child

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"
	"syscall"
	"unsafe"
)

// Output is what the measured step returns.
var Output = strings.Repeat("x", 98)

// Options are those of one load.
type Options struct {
	URL      string  `json:"url"`
	Steps    int     `json:"steps"`
	Seconds  float64 `json:"seconds"`
	InFlight int     `json:"in_flight"`
	Runs     int     `json:"runs"`
	Tasks    int     `json:"tasks"`
	Hold     int     `json:"hold"`
	Queues   int     `json:"queues"`
	PauseS   float64 `json:"pause_s"`
	SettleS  float64 `json:"settle_s"`
	Variant  string  `json:"variant"`
}

// Arguments are the load and its options.
func Arguments() (string, Options) {
	var options Options
	Must(json.Unmarshal([]byte(os.Args[2]), &options))
	return os.Args[1], options
}

var lines = bufio.NewReader(os.Stdin)

// Say is one line to whoever measures.
func Say(word string, value any) {
	text, err := json.Marshal(map[string]any{word: value})
	Must(err)
	fmt.Println(string(text))
}

// WaitForGo is false when there will be no more.
func WaitForGo() bool {
	_, err := lines.ReadString('\n')
	return err == nil
}

// Must ends the program: a measurement of half a load is none.
func Must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Nanoseconds of the clock that two processes share.
func Nanoseconds() int64 {
	var now syscall.Timespec
	if _, _, failed := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&now)), 0); failed != 0 {
		Must(failed)
	}
	return now.Nano()
}

func status(field string) float64 {
	text, err := os.ReadFile("/proc/self/status")
	Must(err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			var value float64
			_, err := fmt.Sscan(rest, &value)
			Must(err)
			return value
		}
	}
	return 0
}

// ResidentMB is this process's memory.
func ResidentMB() float64 { return status("VmRSS") / 1024 }

// Threads are this process's OS threads.
func Threads() float64 { return status("Threads") }

// Samples are measured times, in milliseconds.
type Samples struct {
	mu     sync.Mutex
	values []float64
}

func (s *Samples) Add(ms float64) {
	s.mu.Lock()
	s.values = append(s.values, ms)
	s.mu.Unlock()
}

func (s *Samples) Clear() {
	s.mu.Lock()
	s.values = nil
	s.mu.Unlock()
}

func (s *Samples) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.values)
}

// Percentile of the samples so far.
func (s *Samples) Percentile(share float64) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	sort.Float64s(s.values)
	if len(s.values) == 0 {
		return 0
	}
	return s.values[min(len(s.values)-1, int(share*float64(len(s.values))))]
}
