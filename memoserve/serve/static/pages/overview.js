// What was evaluated, what is running, and a form to run more.
import { forget, keep } from '../api.js';
import { checkpointsOf, picker } from '../controls.js';
import { h } from '../dom.js';
import { figure } from '../figure.js';
import { compact, count, percent, power } from '../format.js';
import { runs } from '../runs.js';
import { area } from '../states.js';
import { table } from '../table.js';

export const title = 'Overview';
export const lead = 'What this store holds, what is being evaluated, and what is missing.';
export const needsScores = false;

/** Build the page. */
export async function open(main, { store, select, link, values }) {
  const [suites, engines] = await Promise.all([keep('suites'), keep('engines')]);
  const held = store.suites.map((suite) => suite.suite);
  const names = [...held, ...suites.map((suite) => suite.name).filter((name) => !held.includes(name))];
  const first = [...store.suites].sort((a, b) => (b.evaluated_checkpoints > 0) - (a.evaluated_checkpoints > 0) || (a.suite < b.suite ? -1 : 1))[0]?.suite ?? names[0];
  const suite = values.suite || first;

  const tiles = area();
  const coverage = area();
  const growth = figure('counts', { link });
  growth.element.hidden = true;
  const facts = h('section');
  const failed = h('section');

  async function draw() {
    const now = await keep('store');
    const its = now.suites.find((one) => one.suite === suite);
    tiles.fill(() => (its ? checkpointsOf(suite) : []), (rows) => tilesOf(rows, its));
    coverage.fill(async () => (its ? checkpointsOf(suite) : fromSuite(await keep(`suites/${encodeURIComponent(suite)}`))), (rows) => coverageOf(rows, suite, link));
    failed.replaceChildren(...(its?.failed_checks.length ? [h('h2', {}, 'Checks that failed'), failures(its.failed_checks)] : []));
    growth.element.hidden = !its?.evaluated_checkpoints;
    if (its?.evaluated_checkpoints) growth.show({ suite });
    facts.replaceChildren(...(its ? [h('details', {}, h('summary', {}, 'Fingerprint: what has to be equal for scores to share this store'), fingerprint(its.fingerprint))] : []));
  }

  const working = store.read_only ? null : runs({ suites: names, engines, suite, store, changed() { forget(); draw(); } });
  const described = suites.find((one) => one.name === suite)?.description;
  const pick = picker('Suite', names.map((name) => [name, held.includes(name) ? name : `${name} (nothing evaluated)`]), (name) => select({ suite: name, target: '' }));
  pick.set(suite);
  main.append(...[
    h('div', { class: 'controls' }, pick.element, described && h('p', { class: 'small soft' }, described)),
    tiles.element,
    failed,
    working?.element,
    h('section', {}, h('h2', {}, 'Coverage'), coverage.element),
    growth.element,
    facts,
  ].filter(Boolean));
  return {
    update: draw,
    leave() {
      [tiles, coverage, growth].forEach((one) => one.stop());
      working?.stop();
    },
  };
}

function tilesOf(rows, its) {
  if (!its) return h('div', { class: 'state' }, 'Nothing of this suite is in the store yet. A run fills it.');
  const evaluated = rows.filter((row) => row.evaluated);
  const wanted = evaluated.reduce((sum, row) => sum + Number(row.wanted), 0);
  const missing = evaluated.reduce((sum, row) => sum + Number(row.missing), 0);
  const tile = (label, value, small) => h('div', {}, h('dt', {}, label), h('dd', {}, value, small && [' ', h('small', {}, small)]));
  return h('dl', { class: 'tiles' },
    tile('Checkpoints evaluated', count(its.evaluated_checkpoints), `of ${count(its.checkpoints)}`),
    tile('Scores', h('span', { title: count(its.scores) }, compact(its.scores))),
    tile('Training sequences', compact(rows[0]?.trained)),
    tile('Evaluated, of the sequences seen', wanted ? percent((wanted - missing) / wanted) : '–'),
    tile('Checks passed', its.checks.passed ? count(its.checks.passed) : '–', notPassed(its.checks)),
    tile(['Mode', its.fingerprint.engine, its.fingerprint.dtype].filter(Boolean).join(', '), its.fingerprint.mode ?? '–'));
}

/** A suite's checkpoints where the store knows nothing of it. */
function fromSuite(suite) {
  return suite.models.flatMap((model, index) => suite.steps.map((step) => ({
    model: model.name, model_order: index, parameters: model.parameters, step, checkpoint: `${model.name}@${step}`, evaluated: 0, missing: null, wanted: null,
  })));
}

function coverageOf(rows, suite, link) {
  const models = [...new Map(rows.map((row) => [row.model, row])).values()];
  const steps = [...new Set(rows.map((row) => row.step))].sort((a, b) => a - b);
  const at = new Map(rows.map((row) => [row.checkpoint, row]));
  const columns = [
    { name: 'model', label: 'Model', cell: (row) => h('span', { title: `${count(row.parameters)} parameters` }, row.model) },
    ...steps.map((step) => ({ name: String(step), label: count(step), cell: (model) => cell(at.get(`${model.model}@${step}`), suite, link) })),
  ];
  const drawn = table('Share of what each checkpoint has seen that is scored; a column a training step', columns, models, { sortable: false });
  drawn.classList.add('coverage');
  return [
    drawn,
    h('p', { class: 'key', style: { 'margin-top': '.5rem' } }, h('span', { class: 'whole' }, 'all that it has seen'), h('span', { class: 'part' }, 'a part'), h('span', { class: 'none' }, 'nothing')),
  ];
}

function cell(row, suite, link) {
  if (!row) return '';
  if (!row.evaluated) return h('span', { class: 'none', title: `${row.checkpoint}: not evaluated` }, '–');
  const wanted = Number(row.wanted);
  const have = wanted - Number(row.missing);
  const share = wanted ? have / wanted : 1;
  const words = `${row.checkpoint}: ${count(have)} of ${count(wanted)} sequences seen are scored, ${power(row.training_flops)} FLOPs. Show its predictors`;
  return h('a', { class: share === 1 ? 'whole' : 'part', href: link('predictors', { suite, target: row.checkpoint }), title: words, 'aria-label': words }, share === 1 ? '100%' : percent(share));
}

const notPassed = (checks) => Object.entries(checks).filter(([result]) => result !== 'passed').map(([result, n]) => `${count(n)} ${result}`).join(', ');

const failures = (checks) => table('Checks that failed', [{ name: 'name', label: 'Check' }, { name: 'subject', label: 'Of' }, { name: 'detail', label: 'What was seen', wrap: true }], checks, { sortable: false });

const fingerprint = (metadata) => table('Fingerprint', [{ name: 'what', label: 'What' }, { name: 'value', label: 'Value', wrap: true }],
  Object.entries(metadata).sort().map(([what, value]) => ({ what, value: typeof value === 'string' ? value : JSON.stringify(value) })), { sortable: false });
