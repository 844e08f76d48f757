// How the scores are distributed.
import { checkpointsOf, defaultSuite, picker, suitePicker } from '../controls.js';
import { h } from '../dom.js';
import { figure } from '../figure.js';
import { count } from '../format.js';

export const title = 'Score distribution';
export const short = 'Distribution';
export const lead = 'How many tokens match: most sequences few, some all 32. Those are the memorized ones.';
export const needsScores = true;

/** Build the page. */
export async function open(main, { store, select, link, values }) {
  const suite = values.suite || defaultSuite(store);
  const rows = (await checkpointsOf(suite)).filter((row) => row.evaluated);
  const steps = [...new Set(rows.map((row) => row.step))].sort((a, b) => b - a);
  const controls = {
    suite: suitePicker(store, select),
    step: picker('Every model at', [['', 'its last evaluated step'], ...steps.map((step) => [String(step), `step ${count(step)}`])], (step) => select({ step })),
  };
  const figures = ['distribution', 'continuation_lengths'].map((name) => figure(name, { link }));
  main.append(h('div', { class: 'controls' }, Object.values(controls).map((one) => one.element)), ...figures.map((one) => one.element));
  let before = null;
  function update(its) {
    for (const [name, control] of Object.entries(controls)) control.set({ suite, ...its }[name] ?? '');
    const checkpoints = its.step ? rows.filter((row) => String(row.step) === its.step).map((row) => row.checkpoint).join(',') : '';
    if (checkpoints !== before) figures.forEach((one) => one.show({ suite: its.suite, checkpoints }, 'sequences'));
    before = checkpoints;
  }
  return { update, leave: () => figures.forEach((one) => one.stop()) };
}
