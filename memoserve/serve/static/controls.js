// Labelled form controls. Each is { element, set(value) } and calls `change` with the new value.
import { keep, records } from './api.js';
import { h, newId } from './dom.js';

/** A label above a control. */
export function field(label, control, { hint, grow } = {}) {
  control.id ||= newId('field');
  const note = hint && h('span', { class: 'hint', id: `${control.id}-hint` }, hint);
  if (note) control.setAttribute('aria-describedby', note.id);
  return h('div', { class: grow ? 'field grow' : 'field' }, h('label', { for: control.id }, label), control, note);
}

/** A list to pick one of. `options`: [value, words], or { group, options }. */
export function picker(label, options, change, how = {}) {
  const option = ([value, words]) => h('option', { value }, words);
  const control = h('select', { onchange: () => change(control.value) },
    options.map((one) => (one.group === undefined ? option(one) : h('optgroup', { label: one.group }, one.options.map(option)))));
  return {
    element: field(label, control, how),
    set(value) {
      control.value = value ?? '';
      if (control.selectedIndex < 0) control.selectedIndex = 0;
    },
  };
}

/** A few words side by side, one of them chosen. `options`: [value, words]. */
export function choice(label, options, change) {
  const name = newId('choice');
  const inputs = options.map(([value]) => h('input', { type: 'radio', name, value, onchange: () => change(value) }));
  return {
    element: h('fieldset', {}, h('legend', {}, label),
      h('div', { class: 'choice' }, options.map(([, words], i) => h('label', {}, inputs[i], words)))),
    set(value) {
      for (const input of inputs) input.checked = input.value === (value ?? options[0][0]);
    },
  };
}

/** A line of text or a number. `type`: text, search or number. */
export function entry(label, change, { type = 'text', hint, grow, ...attributes } = {}) {
  const control = h('input', { type, autocomplete: 'off', spellcheck: 'false', onchange: () => change(control.value.trim()), ...attributes });
  return { element: field(label, control, { hint, grow }), control, set: (value) => { control.value = value ?? ''; } };
}

/** Yes or no. */
export function check(label, change) {
  const control = h('input', { type: 'checkbox', onchange: () => change(control.checked) });
  return { element: h('label', { class: 'check' }, control, label), control, set: (value) => { control.checked = Boolean(value); } };
}

/** Sequences or windows. */
export const unitChoice = (select) =>
  choice('Counted in', [['sequences', 'Sequences'], ['windows', 'Windows']], (unit) => select({ unit }));

/** The suites with scores, as a picker if there is a choice; a change drops what belongs to the old one. */
export function suitePicker(store, select) {
  const names = store.suites.filter((suite) => suite.evaluated_checkpoints).map((suite) => suite.suite);
  if (names.length < 2) return { element: null, set: () => {} };
  return picker('Suite', names.map((name) => [name, name]), (suite) => select({ suite, target: '', predictor: '', model: '', step: '' }));
}

/** The suite that pages show without being told: as the queries, the first evaluated one. */
export const defaultSuite = (store) => store.suites.filter((suite) => suite.evaluated_checkpoints).map((suite) => suite.suite).sort()[0];

/** A suite's checkpoints, in order of model and step. */
export const checkpointsOf = async (suite) => records(await keep('checkpoints', { suite }));

const last = (rows) => rows.reduce((a, b) => (b.model_order > a.model_order || (b.model_order === a.model_order && b.step > a.step) ? b : a));

/** The target that queries take without being told: the last evaluated step of the largest evaluated model. */
export const defaultTarget = (rows) => last(rows.filter((row) => row.evaluated)).checkpoint;

/** A checkpoint to pick, by model, the largest first. */
export function checkpointPicker(label, rows, change, how = {}) {
  const models = [...new Set(rows.map((row) => row.model))].reverse();
  const options = models.map((model) => ({
    group: model,
    options: rows.filter((row) => row.model === model).reverse()
      .map((row) => [row.checkpoint, how.words?.(row) ?? row.checkpoint]),
  }));
  return picker(label, how.first ? [how.first, ...options] : options, change);
}
