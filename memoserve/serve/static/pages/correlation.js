// Whether models, and checkpoints of a model, agree.
import { checkpointsOf, choice, defaultSuite, picker, suitePicker, unitChoice } from '../controls.js';
import { h } from '../dom.js';
import { figure } from '../figure.js';

export const title = 'Correlation';
export const lead = 'Whether models match and memorize the same sequences: 1 is complete agreement, 0 is none.';
export const needsScores = true;

const KINDS = [['correlation', 'Between models'], ['top_correlation', 'Highest scores'], ['checkpoint_correlation', 'Over training']];

/** Build the page. */
export async function open(main, { store, select, link, values }) {
  const suite = values.suite || defaultSuite(store);
  const models = [...new Set((await checkpointsOf(suite)).filter((row) => row.evaluated).map((row) => row.model))];
  const controls = {
    suite: suitePicker(store, select),
    kind: choice('Compared', KINDS, (kind) => select({ kind })),
    model: picker('Model', models.toReversed().map((model) => [model, model]), (model) => select({ model })),
    unit: unitChoice(select),
  };
  const figures = Object.fromEntries(KINDS.map(([name]) => [name, figure(name, { link })]));
  main.append(h('div', { class: 'controls' }, Object.values(controls).map((one) => one.element)), ...Object.values(figures).map((one) => one.element));
  let before = '';
  function update(its) {
    const kind = its.kind || 'correlation';
    const unit = its.unit || 'sequences';
    for (const [name, control] of Object.entries(controls)) control.set({ suite, kind, unit, ...its }[name] ?? '');
    const overTraining = kind === 'checkpoint_correlation';
    controls.model.element.hidden = !overTraining;
    for (const [name, one] of Object.entries(figures)) one.element.hidden = name !== kind;
    const now = [kind, unit, overTraining && its.model].join();
    if (now !== before) figures[kind].show({ suite: its.suite, ...(overTraining && { model: its.model }) }, unit);
    before = now;
  }
  return { update, leave: () => Object.values(figures).forEach((one) => one.stop()) };
}
