// How well cheaper runs say what a target memorized.
import { get, records } from '../api.js';
import { checkpointPicker, checkpointsOf, choice, defaultSuite, defaultTarget, entry, picker, suitePicker, unitChoice } from '../controls.js';
import { h } from '../dom.js';
import { figure } from '../figure.js';
import { count, percent, plain, power } from '../format.js';
import { area, empty } from '../states.js';
import { share, table } from '../table.js';

export const title = 'Predictors';
export const lead = 'Pick an expensive run, the target, and see how well cheaper ones say what it memorizes.';
export const needsScores = true;

const COLUMNS = [
  { name: 'predictor', label: 'Predictor' },
  { name: 'flops_share', label: 'Compute', about: 'training compute, as a share of the target’s', number: true,
    cell: (row) => h('span', { title: `${power(row.training_flops)} FLOPs` }, percent(row.flops_share)) },
  share('precision', 'Precision', 'of what the predictor memorized, the share that the target memorized too'),
  share('recall_corpus', 'Recall', 'of all that the target memorized, the share that the predictor memorized too; what it has not seen counts as missed'),
  share('recall_seen', 'Recall of seen', 'the same over what the predictor has seen'),
  { name: 'f1', label: 'F1', number: true, about: 'harmonic mean of precision and recall', cell: (row) => plain(row.f1 === null ? null : Number(row.f1.toFixed(3))) },
  { name: 'predictor_memorized', label: 'It memorized', number: true, cell: (row) => count(row.predictor_memorized) },
  { name: 'both_memorized', label: 'Both', number: true, cell: (row) => count(row.both_memorized) },
  { name: 'missed', label: 'Missed', number: true, about: 'memorized by the target without warning',
    cell: (row) => count(row.target_memorized - row.both_memorized), value: (row) => row.target_memorized - row.both_memorized },
];

const SIGNALS = [['', 'the best that was measured'], ['continuation_ll', 'log-likelihood'], ['matches', 'matching tokens'], ['matched_prefix', 'matched prefix']];

/** Build the page. */
export async function open(main, { store, select, link, values }) {
  const suite = values.suite || defaultSuite(store);
  const rows = await checkpointsOf(suite);
  const evaluated = rows.filter((row) => row.evaluated);
  const change = (name) => (value) => select({ [name]: value });

  const controls = {
    suite: suitePicker(store, select),
    target: checkpointPicker('Target', evaluated, change('target')),
    from: choice('Predicted from', [['models', 'Smaller models'], ['checkpoints', 'Every earlier checkpoint']], change('from')),
    unit: unitChoice(select),
  };
  const answer = area();
  const curve = figure('predictors', { link });
  const overTraining = figure('recall', { link });

  const line = {
    predictor: checkpointPicker('Predictor', evaluated, change('predictor'), { first: ['', 'the largest smaller model'] }),
    signal: picker('Its score', SIGNALS, change('signal')),
    recall: entry('Recall wanted', (value) => select({ recall: value }), { type: 'number', min: '0.01', max: '1', step: '0.01', inputmode: 'decimal' }),
  };
  const thresholds = area();
  const threshold = figure('thresholds', { link, adapt: closer });

  main.append(
    h('div', { class: 'controls' }, Object.values(controls).map((one) => one.element)),
    h('section', { 'aria-label': 'Table of predictors' }, answer.element),
    curve.element,
    overTraining.element,
    h('section', {},
      h('header', {}, h('h2', {}, 'Precision against recall')),
      h('p', { class: 'soft' }, 'Beyond memorized or not: a predictor’s score draws the line anywhere, from few sure warnings to many unsure ones. The axes begin where the curve does.'),
      h('div', { class: 'controls' }, Object.values(line).map((one) => one.element)),
      thresholds.element),
    threshold.element);

  let before = {};
  function update(its) {
    const target = its.target || defaultTarget(rows);
    const unit = its.unit || 'sequences';
    const from = its.from || 'models';
    for (const [name, control] of Object.entries({ ...controls, ...line })) {
      control.set({ suite, target, unit, from, recall: 0.9, ...its }[name] ?? '');
    }
    const now = { main: [target, unit, from].join(), line: [target, unit, its.predictor, its.signal, its.recall].join() };
    const asked = { suite: its.suite, target: its.target };
    const ofUnit = (all) => records(all).filter((row) => row.unit === unit);
    if (now.main !== before.main) {
      const [drawn, other] = from === 'models' ? [curve, overTraining] : [overTraining, curve];
      other.element.hidden = true;
      drawn.element.hidden = false;
      answer.fill((signal) => get(`queries/${from === 'models' ? 'predictors' : 'checkpoints'}`, asked, signal), (all) => {
        // Why there is nothing is shown once.
        drawn.element.hidden = !ofUnit(all).length;
        return tables(records(all), target, unit, from);
      });
      drawn.show(asked, unit);
    }
    if (now.line !== before.line) {
      const ofPredictor = { ...asked, predictor: its.predictor, signal: its.signal, recall: its.recall };
      threshold.element.hidden = false;
      thresholds.fill((signal) => get('queries/thresholds', ofPredictor, signal), (all) => {
        threshold.element.hidden = !ofUnit(all).length;
        return sentence(ofUnit(all), unit, its.recall || 0.9);
      });
      threshold.show(ofPredictor, unit);
    }
    before = now;
  }
  return { update, leave: () => [answer, thresholds, curve, overTraining, threshold].forEach((one) => one.stop()) };
}

function tables(all, target, unit, from) {
  const rows = all.filter((row) => row.unit === unit);
  if (!rows.length) {
    return empty(all.length ? `This store does not number windows, so nothing is counted in them.` : `Nothing cheaper than ${target} was evaluated, so nothing predicts it.`);
  }
  const memorized = Math.max(...rows.map((row) => row.target_memorized));
  const best = rows.reduce((a, b) => ((b.recall_corpus ?? 0) > (a.recall_corpus ?? 0) ? b : a));
  const words = memorized && best.recall_corpus
    ? [h('b', {}, target), ` memorized ${count(memorized)} ${unit}. `,
      from === 'models' ? 'Of the smaller models, ' : 'Of all that is cheaper, ', h('b', {}, best.predictor), ' predicts the most: for ',
      percent(best.flops_share), ' of the compute it finds ', h('b', {}, percent(best.recall_corpus)), ' of them at a precision of ',
      percent(best.precision), ', and misses ', h('b', {}, count(best.target_memorized - best.both_memorized)), '.']
    : [h('b', {}, target), memorized ? ` memorized ${count(memorized)} ${unit}, and no predictor any of them.` : ` memorized nothing, so there is nothing to predict.`];
  const left = Math.max(...rows.map((row) => row.not_evaluated ?? 0));
  return [
    h('div', { class: 'answer' }, h('p', {}, words),
      left > 0 && h('p', { class: 'soft' }, `Up to ${count(left)} of the ${unit} that both have seen were evaluated for the target alone; they count nowhere.`)),
    table(`Predictors of ${target}, in ${unit}; below each share its 95% interval`, COLUMNS, rows, { row: (row) => (row === best && best.recall_corpus ? 'best' : null) }),
  ];
}

/** With axes that begin where the curve does: a good predictor's is a corner of the whole. */
function closer(spec) {
  const least = (...names) => Math.min(...spec.data.values.flatMap((row) => names.map((name) => row[name] ?? 1)));
  const from = { x: least('recall_corpus'), y: least('precision', 'precision_low') };
  for (const { encoding } of spec.layer ?? spec.spec?.layer ?? []) {
    for (const [channel, start] of Object.entries(from)) {
      if (encoding[channel]) encoding[channel].scale = { ...encoding[channel].scale, domain: [Math.floor(start * 10) / 10, 1] };
    }
  }
  return spec;
}

const SIGNAL_WORDS = {
  continuation_ll: (tau) => `a log-likelihood of at least ${plain(tau)}`,
  matches: (tau) => (tau ? `${tau} or more of 32 tokens matching` : 'any score at all'),
  matched_prefix: (tau) => (tau ? `the first ${tau} tokens or more matching` : 'any score at all'),
};

function sentence(rows, unit, recall) {
  if (!rows.length) return empty('There is no cheaper checkpoint with scores to draw a line by.');
  const wanted = rows.find((row) => row.wanted);
  const { predictor, target } = rows[0];
  if (!wanted) {
    const most = Math.max(...rows.map((row) => row.recall_corpus ?? 0));
    return h('div', { class: 'answer' }, h('p', {}, `No line by ${predictor} reaches a recall of ${percent(Number(recall))} for ${target}; the most is ${percent(most)}.`));
  }
  return h('div', { class: 'answer' }, h('p', {},
    'Flag what ', h('b', {}, predictor), ' gives ', h('b', {}, SIGNAL_WORDS[wanted.signal](wanted.tau)), `: that finds ${percent(wanted.recall_corpus)} of what ${target} memorized (${percent(Number(recall))} was wanted), and of the ${count(wanted.flagged)} flagged ${unit} `,
    h('b', {}, percent(wanted.precision)), ' are right.'));
}
