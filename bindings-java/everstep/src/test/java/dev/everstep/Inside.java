package dev.everstep;

/** What a test counts that no program can. */
public final class Inside {
  private Inside() {}

  /** Answers that are waited for. */
  public static int waiting(Everstep app) {
    return app.engine.client().waiting();
  }
}
