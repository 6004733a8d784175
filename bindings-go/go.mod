module github.com/everstep/everstep/bindings-go

go 1.24.0

require github.com/everstep/everstep/bindings-go/lib/linux-amd64 v0.1.0

// In this repository the library is built beside its module; a program that requires this module does not see this line.
replace github.com/everstep/everstep/bindings-go/lib/linux-amd64 => ./lib/linux-amd64
