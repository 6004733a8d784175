package vet

import (
	"go/ast"
	"go/types"

	"golang.org/x/tools/go/analysis"
)

// ranges reports calls of the engine inside a range over what has no order: a map, an iterator over one, or a slice that was filled from one and
// never sorted.
func ranges(pass *analysis.Pass, body *ast.BlockStmt) {
	filled := shuffled(pass, body)
	own(pass, body, func(node ast.Node) {
		switch at := node.(type) {
		case *ast.RangeStmt:
			if !calls(pass, at.Body, records) {
				return
			}
			if unordered(pass, at.X) {
				pass.Reportf(at.Pos(), "a range over a map visits keys in another order on replay, and this one calls the engine; range over sorted keys, or use Map with WithKey")
			} else if name, ok := ast.Unparen(at.X).(*ast.Ident); ok && filled[pass.TypesInfo.Uses[name]] {
				pass.Reportf(at.Pos(), "%s was filled in the order of a map, which is another one on replay, and this range calls the engine; sort it first, or use Map with WithKey", name.Name)
			}
		case *ast.CallExpr:
			// sync.Map's Range takes the body of its loop.
			if isSyncRange(called(pass, at)) && len(at.Args) == 1 && calls(pass, at.Args[0], records) {
				pass.Reportf(at.Pos(), "a range over a map visits keys in another order on replay, and this one calls the engine; range over sorted keys, or use Map with WithKey")
			}
		}
	})
}

// unordered: a map, a type parameter that is one, an iterator of package maps, what collects one, a sync.Map's Range, or the keys that reflection
// gives out.
func unordered(pass *analysis.Pass, over ast.Expr) bool {
	over = ast.Unparen(over)
	if isMap(pass.TypesInfo.TypeOf(over)) {
		return true
	}
	if selector, ok := over.(*ast.SelectorExpr); ok {
		method, _ := pass.TypesInfo.Uses[selector.Sel].(*types.Func)
		return isSyncRange(method)
	}
	call, ok := over.(*ast.CallExpr)
	if !ok {
		return false
	}
	function := called(pass, call)
	if function == nil || function.Pkg() == nil {
		return false
	}
	switch function.Pkg().Path() + "." + function.Name() {
	case "maps.All", "maps.Keys", "maps.Values", "golang.org/x/exp/maps.Keys", "golang.org/x/exp/maps.Values", "reflect.MapKeys":
		return true
	case "slices.Collect":
		return len(call.Args) == 1 && unordered(pass, call.Args[0])
	}
	return false
}

func isSyncRange(method *types.Func) bool {
	return method != nil && method.Name() == "Range" && method.Pkg() != nil && method.Pkg().Path() == "sync"
}

func isMap(t types.Type) bool {
	if t == nil {
		return false
	}
	if parameter, ok := types.Unalias(t).(*types.TypeParam); ok {
		constraint, ok := parameter.Constraint().Underlying().(*types.Interface)
		if !ok || constraint.NumEmbeddeds() != 1 {
			return false
		}
		t = constraint.EmbeddedType(0)
		if union, ok := t.(*types.Union); ok && union.Len() == 1 {
			t = union.Term(0).Type()
		}
	}
	_, ok := t.Underlying().(*types.Map)
	return ok
}

// shuffled are the local slices that hold what came out of a map, in its order. One that is handed to anybody may have been sorted there.
func shuffled(pass *analysis.Pass, body *ast.BlockStmt) map[types.Object]bool {
	out := map[types.Object]bool{}
	note := func(left, right []ast.Expr, counts func(ast.Expr) bool) {
		for i := range min(len(left), len(right)) {
			if name, ok := left[i].(*ast.Ident); ok && counts(right[i]) {
				out[object(pass, name)] = true
			}
		}
	}
	own(pass, body, func(node ast.Node) {
		switch at := node.(type) {
		case *ast.AssignStmt:
			note(at.Lhs, at.Rhs, func(right ast.Expr) bool { return !isMap(pass.TypesInfo.TypeOf(right)) && unordered(pass, right) })
		case *ast.RangeStmt:
			if !unordered(pass, at.X) {
				return
			}
			ast.Inspect(at.Body, func(inner ast.Node) bool {
				if statement, ok := inner.(*ast.AssignStmt); ok {
					note(statement.Lhs, statement.Rhs, func(right ast.Expr) bool { return isBuiltin(pass, right, "append") })
				}
				return true
			})
		}
	})
	if len(out) == 0 {
		return out
	}
	own(pass, body, func(node ast.Node) {
		call, ok := node.(*ast.CallExpr)
		if !ok || isBuiltin(pass, call, "append") || isBuiltin(pass, call, "len") || isBuiltin(pass, call, "cap") {
			return
		}
		for _, argument := range call.Args {
			ast.Inspect(argument, func(inner ast.Node) bool {
				if name, ok := inner.(*ast.Ident); ok {
					delete(out, pass.TypesInfo.Uses[name])
				}
				return true
			})
		}
	})
	return out
}

func isBuiltin(pass *analysis.Pass, expression ast.Expr, name string) bool {
	call, ok := ast.Unparen(expression).(*ast.CallExpr)
	if !ok {
		return false
	}
	function, ok := ast.Unparen(call.Fun).(*ast.Ident)
	if !ok {
		return false
	}
	builtin, ok := pass.TypesInfo.Uses[function].(*types.Builtin)
	return ok && builtin.Name() == name
}
