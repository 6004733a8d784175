package vet_test

import (
	"testing"

	"golang.org/x/tools/go/analysis/analysistest"

	"github.com/everstep/everstep/bindings-go/vet"
)

func TestFindsWhatGoesWrongOnReplayAndNothingElse(t *testing.T) {
	analysistest.Run(t, analysistest.TestData(), vet.Analyzer, "a")
}
