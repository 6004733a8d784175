/** Transactional steps on jOOQ. */
@NullMarked
package dev.everstep.jooq;

import org.jspecify.annotations.NullMarked;
