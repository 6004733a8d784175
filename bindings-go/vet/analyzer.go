// Package vet finds two mistakes in workflow functions that compile, pass a test, and go wrong on replay.
//
// A run that is stopped while it waits ends its goroutine as runtime.Goexit does: deferred functions run, but no error was assigned. A deferred
// function that looks at the named error result therefore takes the path without one: it commits, it reports success. And a range over
// a map visits keys in another order each time, so steps inside it are called in another order on replay.
//
// It reports inside functions that take an everstep.Context, and function literals in them.
package vet

import (
	"go/ast"
	"go/types"
	"strings"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/passes/inspect"
	"golang.org/x/tools/go/ast/inspector"
)

const pkg = "github.com/everstep/everstep/bindings-go"

// Analyzer is for go vet -vettool, golangci-lint and the like.
var Analyzer = &analysis.Analyzer{
	Name:     "everstep",
	Doc:      "report a defer that looks at the error result of a workflow that waits, and steps inside a range over a map",
	Requires: []*analysis.Analyzer{inspect.Analyzer},
	Run:      run,
}

func run(pass *analysis.Pass) (any, error) {
	found := pass.ResultOf[inspect.Analyzer].(*inspector.Inspector)
	found.Preorder([]ast.Node{(*ast.FuncDecl)(nil), (*ast.FuncLit)(nil)}, func(node ast.Node) {
		var kind *ast.FuncType
		var body *ast.BlockStmt
		switch f := node.(type) {
		case *ast.FuncDecl:
			kind, body = f.Type, f.Body
		case *ast.FuncLit:
			kind, body = f.Type, f.Body
		}
		if body != nil && takesContext(pass, kind) {
			deferred(pass, kind, body)
			ranges(pass, body)
		}
	})
	return nil, nil
}

// takesContext: a workflow function, or a branch of one.
func takesContext(pass *analysis.Pass, kind *ast.FuncType) bool {
	for _, parameter := range kind.Params.List {
		if named, ok := types.Unalias(pass.TypesInfo.TypeOf(parameter.Type)).(*types.Named); ok {
			if object := named.Obj(); object.Name() == "Context" && ours(object.Pkg()) {
				return true
			}
		}
	}
	return false
}

func ours(p *types.Package) bool {
	return p != nil && (p.Path() == pkg || strings.HasPrefix(p.Path(), pkg+"/"))
}

// deferred reports deferred literals that read a named error result, in functions that wait.
func deferred(pass *analysis.Pass, kind *ast.FuncType, body *ast.BlockStmt) {
	results := map[types.Object]bool{}
	if kind.Results != nil {
		for _, result := range kind.Results.List {
			for _, name := range result.Names {
				object := pass.TypesInfo.Defs[name]
				if object != nil && types.Identical(object.Type(), types.Universe.Lookup("error").Type()) {
					results[object] = true
				}
			}
		}
	}
	if len(results) == 0 || !calls(pass, body, waits) {
		return
	}
	own(pass, body, func(node ast.Node) {
		statement, ok := node.(*ast.DeferStmt)
		if !ok {
			return
		}
		ast.Inspect(statement.Call, func(inner ast.Node) bool {
			name, ok := inner.(*ast.Ident)
			if !ok || !results[pass.TypesInfo.Uses[name]] {
				return true
			}
			pass.Reportf(statement.Pos(), "this defer looks at %s, which is not set when the run is stopped while it waits; "+
				"put clean-up that must happen once into a step", name.Name)
			return false
		})
	})
}

// ranges reports calls of the engine inside a range over a map.
func ranges(pass *analysis.Pass, body *ast.BlockStmt) {
	own(pass, body, func(node ast.Node) {
		loop, ok := node.(*ast.RangeStmt)
		if !ok {
			return
		}
		if _, isMap := pass.TypesInfo.TypeOf(loop.X).Underlying().(*types.Map); isMap && calls(pass, loop.Body, func(string) bool { return true }) {
			pass.Reportf(loop.Pos(), "a range over a map visits keys in another order on replay, and this one calls the engine; range over sorted keys, or use Map with WithKey")
		}
	})
}

// own visits a function's nodes without the literals that are workflow functions themselves: those are visited by themselves.
func own(pass *analysis.Pass, body *ast.BlockStmt, visit func(ast.Node)) {
	ast.Inspect(body, func(node ast.Node) bool {
		if literal, ok := node.(*ast.FuncLit); ok && takesContext(pass, literal.Type) {
			return false
		}
		if node != nil {
			visit(node)
		}
		return true
	})
}

// waits are the calls a run may be stopped in for long; a step is one, for it may be retried.
func waits(name string) bool {
	switch name {
	case "Sleep", "SleepUntil", "Receive", "GetEvent", "Result", "Do", "All", "Any", "Race", "Map", "MapBranches":
		return true
	}
	return false
}

// calls says whether anything below calls the package, by a name that counts.
func calls(pass *analysis.Pass, below ast.Node, counts func(string) bool) bool {
	found := false
	ast.Inspect(below, func(node ast.Node) bool {
		call, ok := node.(*ast.CallExpr)
		if !ok || found {
			return !found
		}
		function := call.Fun
		switch generic := function.(type) {
		case *ast.IndexExpr:
			function = generic.X
		case *ast.IndexListExpr:
			function = generic.X
		}
		var name *ast.Ident
		switch f := function.(type) {
		case *ast.SelectorExpr:
			name = f.Sel
		case *ast.Ident:
			name = f
		default:
			return true
		}
		object := pass.TypesInfo.Uses[name]
		if f, ok := object.(*types.Func); ok && ours(f.Pkg()) && counts(f.Name()) && takesAContext(f) {
			found = true
		}
		return !found
	})
	return found
}

// takesAContext: its first parameter is a context. Options, and what is asked of a handle in memory, take none.
func takesAContext(f *types.Func) bool {
	signature, ok := f.Type().(*types.Signature)
	if !ok || signature.Params().Len() == 0 {
		return false
	}
	return strings.HasSuffix(signature.Params().At(0).Type().String(), ".Context")
}
