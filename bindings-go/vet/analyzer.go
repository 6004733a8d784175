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
	"go/token"
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
		if body == nil || !takesContext(pass, kind) {
			return
		}
		deferred(pass, kind, body)
		ranges(pass, body)
		// A literal that is called with the workflow's context in reach may have a named error of its own.
		own(pass, body, func(node ast.Node) {
			if literal, ok := node.(*ast.FuncLit); ok {
				deferred(pass, literal.Type, literal.Body)
			}
		})
	})
	return nil, nil
}

// takesContext: a workflow function, or a branch of one.
func takesContext(pass *analysis.Pass, kind *ast.FuncType) bool {
	return takes(pass, kind, isOurContext)
}

// takesAnyContext: also the function of a step, in which the order of calls and the way out are its own business.
func takesAnyContext(pass *analysis.Pass, kind *ast.FuncType) bool {
	return takes(pass, kind, func(t types.Type) bool { return isOurContext(t) || t.String() == "context.Context" })
}

func takes(pass *analysis.Pass, kind *ast.FuncType, wanted func(types.Type) bool) bool {
	for _, parameter := range kind.Params.List {
		if wanted(types.Unalias(pass.TypesInfo.TypeOf(parameter.Type))) {
			return true
		}
	}
	return false
}

func isOurContext(t types.Type) bool {
	named, ok := types.Unalias(t).(*types.Named)
	return ok && named.Obj().Name() == "Context" && ours(named.Obj().Pkg())
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
	literals := named(pass, body)
	own(pass, body, func(node ast.Node) {
		statement, ok := node.(*ast.DeferStmt)
		if !ok {
			return
		}
		looked := []ast.Node{statement.Call}
		if name, ok := ast.Unparen(statement.Call.Fun).(*ast.Ident); ok && literals[pass.TypesInfo.Uses[name]] != nil {
			looked = append(looked, literals[pass.TypesInfo.Uses[name]])
		}
		for _, at := range looked {
			if name := looksAt(pass, at, results); name != "" {
				pass.Reportf(statement.Pos(), "this defer looks at %s, which is not set when the run is stopped while it waits; "+
					"put clean-up that must happen once into a step", name)
				return
			}
		}
	})
}

// looksAt is the first of these results that is read below; "" where none is.
func looksAt(pass *analysis.Pass, below ast.Node, results map[types.Object]bool) string {
	set := assigned(below)
	found := ""
	ast.Inspect(below, func(node ast.Node) bool {
		if name, ok := node.(*ast.Ident); ok && found == "" && !set[name] && results[pass.TypesInfo.Uses[name]] {
			found = name.Name
		}
		return found == ""
	})
	return found
}

// named are the literals that are kept in variables: clean := func() {..}; defer clean().
func named(pass *analysis.Pass, body *ast.BlockStmt) map[types.Object]*ast.FuncLit {
	out := map[types.Object]*ast.FuncLit{}
	own(pass, body, func(node ast.Node) {
		statement, ok := node.(*ast.AssignStmt)
		if !ok || len(statement.Lhs) != len(statement.Rhs) {
			return
		}
		for i, right := range statement.Rhs {
			literal, isLiteral := right.(*ast.FuncLit)
			name, isName := statement.Lhs[i].(*ast.Ident)
			if isLiteral && isName {
				out[object(pass, name)] = literal
			}
		}
	})
	return out
}

func object(pass *analysis.Pass, name *ast.Ident) types.Object {
	if defined := pass.TypesInfo.Defs[name]; defined != nil {
		return defined
	}
	return pass.TypesInfo.Uses[name]
}

// assigned are the names that are set and not looked at: a deferred recover that turns a panic into the error is no trap.
func assigned(below ast.Node) map[*ast.Ident]bool {
	out := map[*ast.Ident]bool{}
	ast.Inspect(below, func(node ast.Node) bool {
		if statement, ok := node.(*ast.AssignStmt); ok && statement.Tok == token.ASSIGN {
			for _, left := range statement.Lhs {
				if name, ok := left.(*ast.Ident); ok {
					out[name] = true
				}
			}
		}
		return true
	})
	return out
}

// own visits a function's nodes without the literals that have a context of their own: workflow functions are visited by themselves, and in a step
// nothing is recorded.
func own(pass *analysis.Pass, body *ast.BlockStmt, visit func(ast.Node)) {
	ast.Inspect(body, func(node ast.Node) bool {
		if literal, ok := node.(*ast.FuncLit); ok && takesAnyContext(pass, literal.Type) {
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

// records: what takes a context and yet has no place in the run is asked of memory.
func records(name string) bool {
	switch name {
	case "Logger", "IdempotencyKey", "Attempt", "RunKey", "RunID", "Replaying", "Shielded":
		return false
	}
	return true
}

// calls says whether anything below calls the package, by a name that counts, or a function that is given the workflow's context: what would it
// want with it otherwise. A step's function below is called once, and what it calls is not recorded.
func calls(pass *analysis.Pass, below ast.Node, counts func(string) bool) bool {
	found := false
	ast.Inspect(below, func(node ast.Node) bool {
		if literal, ok := node.(*ast.FuncLit); ok && takesAnyContext(pass, literal.Type) && !takesContext(pass, literal.Type) {
			return false
		}
		call, ok := node.(*ast.CallExpr)
		if !ok || found {
			return !found
		}
		if f := called(pass, call); f != nil && ours(f.Pkg()) {
			found = counts(f.Name()) && takesAContext(f)
		} else if signature, ok := pass.TypesInfo.TypeOf(call.Fun).(*types.Signature); ok {
			found = passesOurContext(signature)
		}
		return !found
	})
	return found
}

func passesOurContext(signature *types.Signature) bool {
	for i := range signature.Params().Len() {
		if isOurContext(signature.Params().At(i).Type()) {
			return true
		}
	}
	return false
}

// called is the function or method a call names; nil for a variable.
func called(pass *analysis.Pass, call *ast.CallExpr) *types.Func {
	function := ast.Unparen(call.Fun)
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
		return nil
	}
	out, _ := pass.TypesInfo.Uses[name].(*types.Func)
	return out
}

// takesAContext: its first parameter is a context. Options, and what is asked of a handle in memory, take none.
func takesAContext(f *types.Func) bool {
	signature, ok := f.Type().(*types.Signature)
	if !ok || signature.Params().Len() == 0 {
		return false
	}
	return strings.HasSuffix(signature.Params().At(0).Type().String(), ".Context")
}
