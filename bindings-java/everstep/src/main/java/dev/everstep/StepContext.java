package dev.everstep;

/** One attempt of a step. */
public interface StepContext {
  /**
   * The key to pass to an outside service: the same in every attempt of this step, whatever dies in
   * between.
   *
   * @return 36 ASCII characters
   */
  String idempotencyKey();

  /**
   * Which attempt this is.
   *
   * @return 1 or more
   */
  int attempt();

  /**
   * The key of the run this step belongs to.
   *
   * @return a uuid
   */
  String runKey();

  /**
   * Whether a cancel or the step's timeout has come. The thread is interrupted then, too.
   *
   * @return true once it has
   */
  boolean cancelRequested();

  /**
   * For loops: ends the step when a cancel or its timeout has come.
   *
   * @throws Cancelled when it has
   */
  void throwIfCancelled();
}
