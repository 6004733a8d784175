package dev.everstep;

/**
 * A workflow. Code outside steps runs again whenever a run resumes: keep it free of effects.
 *
 * @param <I> type of the input
 * @param <O> type of the output
 */
@FunctionalInterface
public interface Workflow<I, O> {
  /**
   * Runs once a run, and again from the start whenever a run resumes, with recorded answers.
   *
   * @param ctx what durable calls are made on; belongs to this thread and ends with this call
   * @param input the run's input
   * @return the run's output
   * @throws Exception what the run fails with
   */
  O run(WorkflowContext ctx, I input) throws Exception;
}
