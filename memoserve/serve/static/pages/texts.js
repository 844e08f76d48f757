// What was memorized, as text. It may hold anything: it goes into the page as text nodes alone.
import { get } from '../api.js';
import { check, checkpointPicker, checkpointsOf, choice, defaultSuite, defaultTarget, entry, suitePicker } from '../controls.js';
import { h } from '../dom.js';
import { count } from '../format.js';
import { area, empty } from '../states.js';

export const title = 'Memorized text';
export const lead = 'What a model recites: the context it was given and, set apart, the continuation.';
export const needsScores = true;

const CELLS = [['memorized', 'All memorized'], ['hit', 'Hits'], ['miss', 'Misses'], ['false_alarm', 'False alarms']];

const ABOUT = {
  memorized: (target) => `Everything that ${target} memorized.`,
  hit: (target, predictor) => `Memorized by both: ${predictor} predicted what ${target} memorized.`,
  miss: (target, predictor) => `Memorized by ${target}, and ${predictor} did not predict it.`,
  false_alarm: (target, predictor) => `Memorized by ${predictor}, and not by ${target}.`,
};

const PAGE = 20;

/** Build the page. */
export async function open(main, { store, select, values }) {
  const suite = values.suite || defaultSuite(store);
  const rows = await checkpointsOf(suite);
  const evaluated = rows.filter((row) => row.evaluated);
  const change = (name) => (value) => select({ [name]: value, from: '' });
  const controls = {
    suite: suitePicker(store, select),
    target: checkpointPicker('Target', evaluated, change('target')),
    predictor: checkpointPicker('Predictor', evaluated, change('predictor')),
    cell: choice('Show', CELLS, change('cell')),
    search: entry('Search in the text', change('search'), { type: 'search', grow: true, maxlength: '1000' }),
    open: check('Show private-looking text unmasked', (on) => select({ open: on ? 'true' : '' })),
  };
  const list = area('Reading the texts…');
  main.append(h('div', { class: 'controls' }, Object.values(controls).map((one) => one.element)), list.element);

  let before = '';
  function update(its) {
    const target = its.target || defaultTarget(rows);
    const cell = its.cell || 'memorized';
    const predictor = its.predictor || defaultPredictor(evaluated, target);
    for (const [name, control] of Object.entries(controls)) control.set({ suite, target, predictor, cell, ...its }[name] ?? '');
    controls.predictor.element.hidden = cell === 'memorized';
    const from = Math.max(0, Number.parseInt(its.from, 10) || 0);
    const masked = its.open !== 'true';
    const asked = { suite: its.suite, target, cell, predictor: cell === 'memorized' ? '' : predictor, search: its.search, redact: masked, limit: PAGE, offset: from };
    const now = JSON.stringify(asked);
    if (now === before) return;
    before = now;
    list.fill((signal) => get('text', asked, signal), (answer) => shown(answer, { ...asked, predictor, masked, from, select }));
  }
  return { update, leave: list.stop };
}

/** The largest smaller model at its last step that is not after the target's. */
function defaultPredictor(evaluated, target) {
  const its = evaluated.find((row) => row.checkpoint === target);
  const smaller = evaluated.filter((row) => row.model_order < its?.model_order && row.step <= its?.step);
  return (smaller.at(-1) ?? evaluated.find((row) => row.checkpoint !== target))?.checkpoint ?? '';
}

function shown(answer, { target, predictor, cell, search, masked, from, select }) {
  const what = [h('p', {}, ABOUT[cell](target, predictor), ' ', h('b', {}, count(answer.total)),
    search ? ` ${answer.total === 1 ? 'window holds' : 'windows hold'} “${search}”.` : ` different ${answer.total === 1 ? 'window' : 'windows'}.`)];
  if (answer.searched !== null && answer.searched !== undefined && answer.searched < answer.windows) {
    what.push(h('p', { class: 'small soft' }, `The search looked through the first ${count(answer.searched)} of ${count(answer.windows)}.`));
  }
  what.push(h('p', { class: 'small soft' }, masked
    ? 'What looks private (addresses, numbers, credentials) is masked. This goes by shape: names and free-form identifiers are not redacted.'
    : 'Nothing is masked: what follows may hold personal data and credentials.'));
  for (const warning of answer.warnings ?? []) what.push(h('p', { class: 'small soft' }, warning));
  if (!answer.rows.length) {
    return [...what, empty(search ? 'No text holds that.' : cell === 'false_alarm' ? 'No false alarms: the target memorized all that the predictor did.' : 'Nothing is in this group.')];
  }
  const to = from + answer.rows.length;
  const turn = (label, offset, on) => h('button', { type: 'button', disabled: !on, onclick: () => { select({ from: offset || '' }); scrollTo(0, 0); } }, label);
  return [
    ...what,
    h('ol', { class: 'texts', start: from + 1 }, answer.rows.map((row) => item(row, target))),
    h('nav', { class: 'buttons', 'aria-label': 'Pages of texts', style: { 'margin-top': '1rem' } },
      turn('Previous', Math.max(0, from - PAGE), from > 0),
      turn('Next', to, to < answer.total),
      h('span', { class: 'soft' }, `${count(from + 1)} to ${count(to)} of ${count(answer.total)}`)),
  ];
}

const NAMES = { memorized: 'memorized', hit: 'hit', miss: 'miss', false_alarm: 'false alarm' };

function item(row) {
  const wrong = row.pieces.some((piece) => !piece.match);
  return h('li', {},
    h('div', { class: 'facts' },
      h('span', { class: 'chip' }, NAMES[row.cell] ?? row.cell),
      h('span', {}, 'sequence ', h('b', {}, String(row.sequence_id))),
      h('span', {}, h('b', {}, count(row.occurrences)), row.occurrences === 1 ? ' occurrence' : ' occurrences'),
      row.compared && h('span', {}, `${row.compared} matches ${row.matches ?? row.matched_prefix ?? '?'} of 32 tokens${row.matches === null ? ' before its first miss' : ''}`),
      wrong && h('span', {}, h('mark', {}, 'marked'), ' tokens do not match')),
    h('div', { class: 'both' },
      h('div', { class: 'text context' }, h('span', { class: 'label' }, 'Context'), row.context),
      h('div', { class: 'text' }, h('span', { class: 'label' }, 'Continuation'),
        row.pieces.map((piece) => (piece.match ? piece.text : h('mark', {}, piece.text))))));
}
