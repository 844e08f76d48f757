// What to run for a budget, and what more would buy.
import { get, records } from '../api.js';
import { check, checkpointPicker, checkpointsOf, defaultSuite, defaultTarget, entry, suitePicker, unitChoice } from '../controls.js';
import { announce, h } from '../dom.js';
import { figure } from '../figure.js';
import { count, percent, power } from '../format.js';
import { area } from '../states.js';
import { share, table } from '../table.js';

export const title = 'Budget';
export const lead = 'Which cheap run to pay for, to know what an expensive one will memorize.';
export const needsScores = true;

const COLUMNS = [
  { name: 'answer', label: 'Answer' },
  { name: 'predictors', label: 'Run', wrap: false },
  { name: 'rule', label: 'Flag what has' },
  { name: 'flops_share', label: 'Compute', number: true, cell: (row) => h('span', { title: `${power(row.training_flops)} FLOPs` }, percent(row.flops_share)) },
  share('recall_corpus', 'Recall', 'on the half of the training order that did not choose it'),
  share('precision', 'Precision', 'likewise'),
  { name: 'flagged', label: 'Flagged', number: true, cell: (row) => count(row.flagged) },
  { name: 'basis', label: 'Basis' },
];

// The slider goes over the logarithm of the share, in hundredths of a decade.
const STEPS = 100;
const toShare = (position) => 10 ** (position / STEPS);
const toPosition = (its) => Math.round(Math.log10(its) * STEPS);

/** Build the page. */
export async function open(main, { store, select, link, values }) {
  const suite = values.suite || defaultSuite(store);
  const rows = await checkpointsOf(suite);
  const change = (name) => (value) => select({ [name]: value });

  const controls = {
    suite: suitePicker(store, select),
    target: checkpointPicker('Target', rows.filter((row) => row.training_flops > 0), change('target'), { words: (row) => (row.evaluated ? row.checkpoint : `${row.checkpoint} (not evaluated: forecast)`) }),
    unit: unitChoice(select),
    min_precision: entry('Precision at least', change('min_precision'), { type: 'number', min: '0', max: '1', step: '0.05', inputmode: 'decimal' }),
    recall: entry('Recall wanted', change('recall'), { type: 'number', min: '0', max: '1', step: '0.05', inputmode: 'decimal', placeholder: 'any' }),
    forecast: check('Forecast, without the target’s own scores', (on) => select({ forecast: on ? 'true' : '' })),
  };

  const slider = h('input', { type: 'range', id: 'budget', step: '1', 'aria-describedby': 'budget-ends' });
  const chosenBudget = h('output', { for: 'budget' });
  const ends = h('div', { class: 'ends', id: 'budget-ends' });
  let line = () => {};
  const curve = figure('equicompute', {
    link,
    adapt: (spec) => withBudget(spec, toShare(Number(slider.value)), [toShare(Number(slider.min)), 1]),
    drawn(view) {
      line = (its) => view.signal('budget', its).runAsync();
    },
  });
  const advice = area('Working it out…');
  const expected = h('div');
  const grid = area('Working it out…');

  let waiting = 0;
  slider.addEventListener('input', () => {
    tell();
    line(toShare(Number(slider.value)));
    clearTimeout(waiting);
    // While it moves the line follows; the recommendation when it rests.
    waiting = setTimeout(() => select({ budget: asBudget(toShare(Number(slider.value))) }, { replace: true }), 250);
  });

  let target = null;
  function tell() {
    const its = toShare(Number(slider.value));
    const flops = target ? its * target.training_flops : null;
    chosenBudget.textContent = `${percent(its)} of ${target?.checkpoint ?? 'the target'}’s compute`;
    slider.setAttribute('aria-valuetext', `${percent(its)} of the target’s compute, ${power(flops)} FLOPs`);
  }

  main.append(
    h('div', { class: 'controls' }, Object.values(controls).map((one) => one.element)),
    h('div', { class: 'columns' },
      h('section', {},
        h('div', { class: 'slider controls' }, h('div', { class: 'field grow' }, h('label', { for: 'budget' }, 'Budget'), chosenBudget, slider, ends)),
        curve.element),
      h('section', { 'aria-labelledby': 'advice' }, h('h2', { id: 'advice' }, 'Recommendation'), advice.element)),
    expected,
    h('section', {}, h('h2', {}, 'The best run for each budget'), grid.element));

  let before = {};
  function update(its) {
    const name = its.target || defaultTarget(rows);
    const unit = its.unit || 'sequences';
    target = rows.find((row) => row.checkpoint === name) ?? null;
    if (target) {
      const cheaper = rows.filter((row) => row.evaluated && row.checkpoint !== name && row.training_flops > 0 && row.training_flops < target.training_flops);
      const least = Math.min(0.1, ...cheaper.map((row) => row.training_flops / target.training_flops));
      slider.min = Math.floor(Math.log10(least) * STEPS);
      slider.max = 0;
      ends.replaceChildren(h('span', {}, percent(10 ** (slider.min / STEPS))), h('span', {}, '100%'));
    }
    const asked = { suite: its.suite, target: its.target, unit, min_precision: its.min_precision, forecast: its.forecast };
    const budget = its.budget || '10%';
    const shareOfTarget = budget.endsWith('%') ? Number.parseFloat(budget) / 100 : Number(budget) / target?.training_flops;
    if (document.activeElement !== slider || toPosition(shareOfTarget) !== Number(slider.value)) slider.value = toPosition(shareOfTarget);
    tell();
    line(toShare(Number(slider.value)));
    for (const [key, control] of Object.entries(controls)) control.set({ suite, target: name, unit, min_precision: 0.8, ...its }[key] ?? '');

    const now = { frontier: [name, unit].join(), grid: JSON.stringify(asked), advice: JSON.stringify([asked, budget, its.recall]) };
    if (now.frontier !== before.frontier) curve.show({ suite: its.suite, target: its.target }, unit);
    const advise = () => advice.fill((signal) => get('recommend', { ...asked, budget, recall: its.recall }, signal), (answer) => {
      expected.replaceChildren(...whatToExpect(answer, unit));
      return recommended(answer);
    });
    if (now.grid !== before.grid) {
      const best = async (signal) => {
        try {
          return await get('recommend/grid', asked, signal);
        } catch (error) {
          // There is no best for any budget; the recommendation says why.
          if (!its.budget && !signal.aborted) advise();
          throw error;
        }
      };
      grid.fill(best, (answer) => {
        // Nobody has chosen a budget: one that buys something.
        const buys = records(answer).find((row) => row.budget_share >= 0.1);
        if (!its.budget) {
          if (buys && buys.budget_share > 0.1) select({ budget: asBudget(buys.budget_share) }, { replace: true });
          else advise();
        }
        return gridTable(answer, unit);
      });
    }
    if (its.budget && now.advice !== before.advice) advise();
    before = now;
  }
  return { update, leave: () => { clearTimeout(waiting); [curve, advice, grid].forEach((one) => one.stop()); } };
}

const asBudget = (its) => `${Number((its * 100).toPrecision(3))}%`;

/** A line at the budget, through every panel, that the signal `budget` moves. */
function withBudget(spec, its, domain) {
  const layers = spec.layer ?? spec.spec?.layer ?? [];
  // As wide as the slider, so that the line is where the slider is.
  for (const { encoding } of layers) if (encoding?.x?.scale) encoding.x.scale = { type: 'log', domain, nice: false };
  layers.push({
    data: { values: [{}] },
    mark: { type: 'rule', strokeWidth: 2, strokeDash: [2, 3], color: '#D55E00', tooltip: null },
    encoding: { x: { datum: { expr: 'budget' }, type: 'quantitative', ...pick(layers[0].encoding.x) } },
  });
  return { ...spec, params: [...(spec.params ?? []), { name: 'budget', value: its }] };
}

const pick = ({ scale, axis, title: name }) => ({ scale, axis, title: name });

function recommended(answer) {
  const [first, ...rest] = answer.sentences;
  announce(first ?? '');
  const [, run, why] = first?.match(/^([^:]+:)(.*)$/s) ?? [null, '', first];
  return [
    h('div', { class: 'answer' }, h('p', {}, h('b', {}, run), why)),
    h('ul', { class: 'small' }, rest.map((line) => h('li', {}, line))),
  ];
}

function whatToExpect(answer, unit) {
  const rows = records(answer);
  return rows.length ? [table(`What to expect, in ${unit}; below each share its interval`, COLUMNS, rows, { sortable: false })] : [];
}

function gridTable(answer, unit) {
  const columns = [{ ...COLUMNS[0], label: 'Budget' }, ...COLUMNS.slice(1)];
  return [
    h('p', { class: 'small soft' }, answer.sentences[0]),
    table(`Budgets are shares of the target’s compute; in ${unit}`, columns, records(answer), { sortable: false }),
  ];
}
