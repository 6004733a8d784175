package dev.everstep;

import java.util.concurrent.CancellationException;

/**
 * The thread was interrupted while it waited for the engine; its interrupt flag is set again. What
 * was submitted may still take effect.
 */
public final class WaitInterrupted extends CancellationException {
  private static final long serialVersionUID = 1L;

  WaitInterrupted() {
    super("interrupted while waiting for the engine; what was submitted may still take effect");
  }
}
