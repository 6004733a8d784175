// Package everstep is durable workflows on PostgreSQL or SQLite, in your own process: a function's steps are recorded as they finish, and a run that
// was killed goes on after the last recorded step, in any process that has the code.
//
// Code outside steps runs again whenever a run resumes: after a crash, a deploy, or a long wait. Keep it free of effects. Never hold a
// transaction, lock, file or connection across a wait: open it inside a step. Clean-up that must happen once belongs in a step.
//
// An engine is a value: Open makes one, Launch connects and runs, Close drains. Workflows are functions that take a Context; steps are values made
// by NewStep. Everything returns errors and nothing panics; errors.Is finds the Err codes and the errors the program declared.
//
// A run that is stopped here (released to wait elsewhere, taken over, drained) ends its goroutine as runtime.Goexit does: deferred functions run,
// and every call they make of the engine ends the same way and records nothing.
package everstep
