module github.com/everstep/everstep/bindings-go/lib/linux-amd64

go 1.24.0
