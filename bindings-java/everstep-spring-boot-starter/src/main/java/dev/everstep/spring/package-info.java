/** Durable workflows as Spring beans. */
@NullMarked
package dev.everstep.spring;

import org.jspecify.annotations.NullMarked;
