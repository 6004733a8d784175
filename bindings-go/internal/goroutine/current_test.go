package goroutine

import (
	"sync"
	"testing"
)

func TestGoroutinesThatLiveTogetherDiffer(t *testing.T) {
	const many = 100
	var mu sync.Mutex
	seen := map[uintptr]bool{}
	var ready, done sync.WaitGroup
	release := make(chan struct{})
	ready.Add(many)
	done.Add(many)
	for range many {
		go func() {
			defer done.Done()
			first := Current()
			mu.Lock()
			seen[first] = true
			mu.Unlock()
			ready.Done()
			<-release
			grow(64)
			if again := Current(); again != first {
				t.Errorf("one goroutine was %x and then %x", first, again)
			}
		}()
	}
	ready.Wait()
	close(release)
	done.Wait()
	if len(seen) != many {
		t.Errorf("%d goroutines had %d names", many, len(seen))
	}
}

// grow makes the stack move.
func grow(depth int) byte {
	var block [1024]byte
	block[depth] = byte(depth)
	if depth > 0 {
		return grow(depth-1) + block[depth]
	}
	return block[0]
}

func BenchmarkCurrent(b *testing.B) {
	b.Run("record", func(b *testing.B) {
		for b.Loop() {
			Current()
		}
	})
	b.Run("printed", func(b *testing.B) {
		for b.Loop() {
			printed()
		}
	})
}
