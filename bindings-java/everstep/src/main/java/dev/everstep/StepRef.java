package dev.everstep;

import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * A declared step: its outcome is recorded before the next one starts, and a recorded step never
 * runs again. The only way to it goes through the context, so a self-invocation cannot pass it by.
 *
 * @param <I> type of the input
 * @param <O> type of the output
 */
public final class StepRef<I extends @Nullable Object, O extends @Nullable Object>
    extends Startable<I, O> {
  private final int kind;
  private final StepCalls.Attempt attempt;

  StepRef(Engine engine, Registered function, int kind, StepCalls.Attempt attempt) {
    super(engine, function);
    this.kind = kind;
    this.attempt = attempt;
  }

  /**
   * Runs the step, or hands back what is recorded.
   *
   * @param ctx the workflow's context
   * @param input the step's input
   * @return the output, as recorded
   * @throws StepFailed when it failed; a declared unchecked exception is thrown itself
   */
  public O call(WorkflowContext ctx, I input) {
    return record(function, ctx, input, null);
  }

  /**
   * The same with options.
   *
   * @param ctx the workflow's context
   * @param input the step's input
   * @param options the key, retries and timeout of this call
   * @return the output, as recorded
   */
  public O call(WorkflowContext ctx, I input, Consumer<CallOptions> options) {
    CallOptions out = new CallOptions();
    Options.required(options, "options").accept(out);
    return record(function.with(out), ctx, input, out.key);
  }

  /**
   * The same where the step may fail with a declared checked exception, which is thrown itself.
   *
   * @param ctx the workflow's context
   * @param input the step's input
   * @param declared the class of the exception
   * @param <X> its type
   * @return the output, as recorded
   * @throws X when the step failed with it
   */
  public <X extends Exception> O call(WorkflowContext ctx, I input, Class<X> declared) throws X {
    Options.required(declared, "the declared exception");
    try {
      return record(function, ctx, input, null);
    } catch (StepFailed failed) {
      if (declared.isInstance(failed.getCause())) {
        throw declared.cast(failed.getCause());
      }
      throw failed;
    }
  }

  @SuppressWarnings("unchecked")
  private O record(Registered called, WorkflowContext ctx, I input, @Nullable String key) {
    requireOwn(ctx, "step ");
    // A step that takes nothing has no arguments, and so no digest of them, in every language.
    byte[] arguments = function.input == Void.class ? null : encode(input);
    return (O) StepCalls.call(ctx, called, kind, input, arguments, key, attempt);
  }
}
