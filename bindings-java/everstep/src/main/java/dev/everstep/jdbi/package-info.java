/** Transactional steps on JDBI. */
@NullMarked
package dev.everstep.jdbi;

import org.jspecify.annotations.NullMarked;
