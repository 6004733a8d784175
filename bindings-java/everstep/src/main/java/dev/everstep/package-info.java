/**
 * Durable workflows on PostgreSQL or SQLite, in your own process.
 *
 * <p><b>Code outside steps runs again whenever a run resumes</b>: after a crash, a deploy, or a
 * long wait. Keep it free of effects. Never hold a transaction, lock, file or connection across a
 * wait: open it inside a step. Clean-up that must happen once belongs in a step.
 */
@NullMarked
package dev.everstep;

import org.jspecify.annotations.NullMarked;
