module github.com/everstep/everstep/bindings-go/linktest

go 1.24.0

replace (
	github.com/everstep/everstep/bindings-go => ../
	github.com/everstep/everstep/bindings-go/lib/linux-amd64 => ../lib/linux-amd64
)

require (
	github.com/everstep/everstep/bindings-go v0.1.0
	github.com/mattn/go-sqlite3 v1.14.53
)

require github.com/everstep/everstep/bindings-go/lib/linux-amd64 v0.1.0 // indirect
