// Command everstepvet is the analyzer by itself: go vet -vettool=$(which everstepvet) ./...
package main

import (
	"golang.org/x/tools/go/analysis/unitchecker"

	"github.com/everstep/everstep/bindings-go/vet"
)

func main() { unitchecker.Main(vet.Analyzer) }
