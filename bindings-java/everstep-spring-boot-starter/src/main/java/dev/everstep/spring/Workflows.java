package dev.everstep.spring;

import dev.everstep.ErrorCode;
import dev.everstep.Everstep;
import dev.everstep.EverstepException;
import dev.everstep.Workflow;
import dev.everstep.WorkflowRef;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.springframework.aop.support.AopUtils;
import org.springframework.beans.factory.ListableBeanFactory;

/** The workflow beans of the application, registered by discovery: what starts their runs. */
public final class Workflows {
  private final Map<Class<?>, WorkflowRef<?, ?>> known = new ConcurrentHashMap<>();

  Workflows() {}

  void register(Everstep app, ListableBeanFactory beans) {
    for (Workflow<?, ?> workflow : beans.getBeansOfType(Workflow.class).values()) {
      known.put(AopUtils.getTargetClass(workflow), app.register(workflow));
    }
  }

  /**
   * What starts runs of a workflow bean.
   *
   * @param type the bean's class
   * @param <I> type of the input
   * @param <O> type of the output
   * @return its reference
   */
  @SuppressWarnings("unchecked")
  public <I, O> WorkflowRef<I, O> of(Class<? extends Workflow<I, O>> type) {
    WorkflowRef<?, ?> found = known.get(type);
    if (found == null) {
      throw new EverstepException(
          ErrorCode.UNKNOWN_WORKFLOW,
          type.getName() + " is no bean of this application, or the engine is not launched yet");
    }
    return (WorkflowRef<I, O>) found;
  }
}
