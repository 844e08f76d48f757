// Questions of one's own: a named query with its parameters, or SQL; the answer as table and chart.
import { address, get, keep, post, postForFile } from '../api.js';
import { checkpointsOf, defaultSuite, entry, picker } from '../controls.js';
import { dark, draw, fitted, picture } from '../chart.js';
import { announce, download, h } from '../dom.js';
import { count } from '../format.js';
import { area, empty } from '../states.js';
import { answerTable, isNumber } from '../table.js';

export const title = 'SQL';
export const lead = 'Ask the store yourself. Statements can only read. The views: checkpoints, scores, memorized, sequences.';
export const needsScores = false;

const START = `SELECT model, step, evaluated, sequences_seen
FROM checkpoints
ORDER BY model_order, step`;

const ROWS = 1000;

/** Build the page. */
export async function open(main, { store, select }) {
  const queries = await keep('queries');
  const suite = defaultSuite(store);
  const evaluated = suite ? (await checkpointsOf(undefined)).filter((row) => row.evaluated) : [];

  const named = picker('Start from', [['', 'my own SQL'], ...queries.map((query) => [query.name, `${query.name}: ${query.title}`])], (query) => select({ ...cleared(), query, sql: '', run: '' }), { grow: true });
  const form = h('form', { class: 'controls', hidden: true });
  const about = h('div', { hidden: true });

  const editor = h('textarea', { class: 'sql', id: 'sql', spellcheck: 'false', autocapitalize: 'off', 'aria-describedby': 'sql-keys', wrap: 'off' });
  const run = h('button', { type: 'button', class: 'main', onclick: () => submit() }, 'Run');
  const own = h('section', {},
    h('label', { for: 'sql', class: 'unseen' }, 'SQL'),
    editor,
    h('div', { class: 'buttons' }, run,
      h('span', { id: 'sql-keys', class: 'small soft' }, h('kbd', {}, 'Ctrl'), ' ', h('kbd', {}, 'Enter'), ' runs it, ', h('kbd', {}, 'Ctrl'), ' ', h('kbd', {}, '/'), ' comments lines, ', h('kbd', {}, 'Tab'), ' goes on to the button')));
  const result = area('Asking…');
  const results = h('section', { 'aria-label': 'Answer', hidden: true }, result.element);
  main.append(h('div', { class: 'controls' }, named.element), form, about, own, results);
  editor.addEventListener('keydown', (event) => keys(event, editor, submit));

  let chart = null;
  let shownAnswer = null; // what the chart's controls belong to
  let before = null;

  function cleared() {
    const names = queries.flatMap((query) => query.parameters.map((parameter) => parameter.name));
    return Object.fromEntries([...names.filter((name) => name !== 'suite' && name !== 'target'), 'mark', 'x', 'y', 'colour'].map((name) => [name, '']));
  }

  function submit() {
    const sql = editor.value.trim();
    if (!sql) {
      editor.focus();
      return;
    }
    before = null; // the same statement again is meant
    select({ ...cleared(), query: '', sql, run: '1' });
    update(Object.fromEntries(new URLSearchParams(location.hash.split('?')[1])));
  }

  function update(its) {
    named.set(its.query);
    const query = queries.find((one) => one.name === its.query);
    own.hidden = Boolean(query);
    form.hidden = about.hidden = !query;
    const key = query ? JSON.stringify([its.query, query.parameters.map((one) => its[one.name])]) : JSON.stringify([its.sql, its.run]);
    if (key === before) {
      if (shownAnswer) shownAnswer.chart(its);
      return;
    }
    before = key;
    chart?.stop();
    chart = shownAnswer = null;
    if (query) ask(query, its);
    else {
      editor.value = its.sql || editor.value || START;
      results.hidden = !its.run;
      if (!its.run) return;
      const body = { sql: its.sql, limit: ROWS };
      result.fill((signal) => post('sql', body, signal), (answer) => {
        const csv = async () => download('answer.csv', await postForFile('sql', { sql: its.sql, format: 'csv' }));
        return drawn(answer, its, h('button', { type: 'button', onclick: csv }, 'CSV'), its.sql, 'answer');
      });
    }
  }

  function ask(query, its) {
    const values = Object.fromEntries(query.parameters.map((one) => [one.name, its[one.name]]).filter(([, value]) => value));
    const controls = query.parameters.map((one) => parameter(one, its[one.name], evaluated, select));
    form.replaceChildren(...(controls.length ? controls : [h('span', { class: 'soft' }, 'This query has no parameters.')]));
    form.onsubmit = (event) => event.preventDefault();
    about.replaceChildren(
      h('p', {}, h('b', {}, query.title)),
      h('details', {}, h('summary', {}, 'What it does, and its SQL'),
        h('p', { class: 'soft' }, query.about),
        h('pre', { tabindex: '0' }, query.sql),
        h('p', {}, h('button', { type: 'button', onclick: () => edit(query, values) }, 'Edit as SQL of my own'))));
    results.hidden = false;
    const about_columns = Object.fromEntries(query.columns.map((column) => [column.name, column.about]));
    result.fill((signal) => get(`queries/${query.name}`, { ...values, limit: ROWS }, signal), (answer) =>
      drawn(answer, its, h('a', { href: address(`queries/${query.name}`, { ...values, format: 'csv' }), download: `${query.name}.csv` }, 'CSV'), query.sql, query.name, about_columns));
  }

  function edit(query, values) {
    const text = (value) => (/^-?[\d.]+(e-?\d+)?$/i.test(value) ? value : `'${value.replaceAll("'", "''")}'`);
    const list = (value) => `[${value.split(/[\s,]+/).filter(Boolean).map(text).join(', ')}]`;
    const set = query.parameters.filter((one) => values[one.name]).map((one) =>
      `SET VARIABLE ${one.name} = ${/names|numbers/.test(one.type) ? list(values[one.name]) : text(values[one.name])};\n`);
    // Before its head of comments, since SET has to stand alone.
    editor.value = set.join('') + query.sql;
    select({ ...cleared(), query: '', sql: editor.value, run: '' });
    editor.focus();
    editor.setSelectionRange(0, 0);
    editor.scrollTop = 0;
  }

  function drawn(answer, its, csv, sql, name, aboutColumns = {}) {
    const rows = answer.rows.length;
    announce(`${count(rows)} rows`);
    if (!answer.columns.length) return empty('The statement ran; it has no answer to show.');
    const caption = answer.truncated ? `The first ${count(rows)} rows; the CSV has them all` : rows === 1 ? '1 row' : `${count(rows)} rows`;
    const files = h('div', { class: 'files' }, 'Download', csv, h('button', { type: 'button', onclick: () => download(`${name}.sql`, sql, 'application/sql') }, 'SQL'));
    if (!rows) return [empty('The answer is empty: no row fits.'), files];
    chart = charting(answer, select, name);
    shownAnswer = { chart: chart.update };
    // It measures its container, so not before it is in the page.
    queueMicrotask(() => requestAnimationFrame(() => chart?.update(its)));
    return [answerTable(caption, answer, aboutColumns), files, chart.element];
  }

  return { update, leave: () => { result.stop(); chart?.stop(); } };
}

/** A parameter's control, of its type. */
function parameter(one, value, evaluated, select) {
  const change = (its) => select({ [one.name]: its });
  const byDefault = `default: ${one.default}`;
  const some = (values) => [['', byDefault], ...[...new Set(values)].map((its) => [its, its])];
  let control;
  if (one.type === 'checkpoint') control = picker(one.name, some(evaluated.map((row) => row.checkpoint)), change, { hint: one.about });
  else if (one.name === 'suite') control = picker(one.name, some(evaluated.map((row) => row.suite)), change, { hint: one.about });
  else if (one.name === 'model' || one.name === 'smaller_than') control = picker(one.name, some(evaluated.map((row) => row.model)), change, { hint: one.about });
  else if (one.type.includes('|')) control = picker(one.name, some(one.type.split('|')), change, { hint: one.about });
  else control = entry(one.name, change, { hint: `${one.about} (${one.type})`, placeholder: one.default, grow: /names|numbers/.test(one.type) });
  control.set(value);
  return control.element;
}

/** What an editor of code does with keys; Tab stays the way out. */
function keys(event, editor, submit) {
  const { selectionStart: start, selectionEnd: end, value } = editor;
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    submit();
  } else if (event.key === 'Enter' && !event.shiftKey && !event.altKey && !event.isComposing) {
    const indent = value.slice(value.lastIndexOf('\n', start - 1) + 1, start).match(/^[ \t]*/)[0];
    if (!indent) return;
    event.preventDefault();
    insert(editor, start, end, `\n${indent}`);
  } else if (event.key === '/' && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    const first = value.lastIndexOf('\n', start - 1) + 1;
    const last = value.indexOf('\n', end) < 0 ? value.length : value.indexOf('\n', end);
    const lines = value.slice(first, last).split('\n');
    const off = lines.every((line) => /^\s*--/.test(line));
    insert(editor, first, last, lines.map((line) => (off ? line.replace(/^(\s*)-- ?/, '$1') : `-- ${line}`)).join('\n'));
  }
}

// execCommand, deprecated as it is, is the one way that keeps the browser's undo.
function insert(editor, start, end, text) {
  editor.setSelectionRange(start, end);
  if (!document.execCommand('insertText', false, text)) editor.setRangeText(text, start, end, 'end');
}

const MARKS = [['line', 'line'], ['point', 'points'], ['bar', 'bars']];

/** A chart of an answer: which column goes where is the reader's. */
function charting(answer, select, name) {
  const numbers = answer.columns.filter((column) => isNumber(column.type)).map((column) => column.name);
  if (!numbers.length || answer.rows.length < 2) return { element: h('span'), update() {}, stop() {} };
  const all = answer.columns.map((column) => column.name);
  const option = (column) => [column, column];
  const words = all.filter((column) => !numbers.includes(column));
  const distinct = (column) => new Set(answer.rows.map((row) => row[all.indexOf(column)])).size;
  const step = numbers.find((column) => /(^|_)(step|flops|tau|score|length|share)$/.test(column) && distinct(column) > 1);
  const x = step ?? words.find((column) => distinct(column) > 1) ?? numbers[0];
  // A colour for each line: with it, one row per x value.
  const separates = (column) => new Set(answer.rows.map((row) => `${row[all.indexOf(x)]} ${row[all.indexOf(column)]}`)).size === answer.rows.length;
  const guess = {
    x,
    y: numbers.find((column) => /recall_corpus$|^sequences_share$|^share$|^evaluated$|^n$/.test(column) && column !== x) ?? numbers.findLast((column) => column !== x && distinct(column) > 1) ?? numbers[0],
    colour: [...words, ...numbers].find((column) => column !== x && distinct(column) > 1 && distinct(column) <= 20 && separates(column)) ?? '',
  };
  // A line through several rows per x value would go up and down between them.
  guess.mark = !step ? 'bar' : guess.colour || distinct(x) === answer.rows.length ? 'line' : 'point';
  const controls = {
    mark: picker('Drawn as', MARKS, (mark) => select({ mark })),
    x: picker('Across', all.map(option), (its) => select({ x: its })),
    y: picker('Up', numbers.map(option), (its) => select({ y: its })),
    colour: picker('Colour', [['-', 'one colour'], ...all.map(option)], (colour) => select({ colour })),
  };
  const target = h('div', { class: 'picture', role: 'img' });
  let spec = null;
  let view = null;
  let drawnWidth = 0;
  let stopped = false;
  const file = (kind) => h('button', { type: 'button', onclick: async () => download(`${name}.${kind}`, await picture(spec, kind)) }, kind.toUpperCase());
  const element = h('figure', { 'aria-labelledby': 'answer-chart' },
    h('figcaption', {}, h('h2', { id: 'answer-chart' }, 'As a chart')),
    h('div', { class: 'controls' }, Object.values(controls).map((one) => one.element)), target,
    h('div', { class: 'files' }, 'Download', file('svg'), file('png')));

  async function redraw() {
    const width = Math.floor(target.clientWidth);
    if (!spec || width < 50) return;
    drawnWidth = width;
    view?.finalize();
    view = null;
    const mine = spec;
    const made = await draw(fitted(mine, width), target);
    if (mine !== spec || view || stopped) made.finalize();
    else view = made;
  }

  // As wide as the page, whatever it becomes.
  const watch = new ResizeObserver(() => {
    if (drawnWidth && Math.abs(target.clientWidth - drawnWidth) > 2) redraw();
  });
  watch.observe(element);
  dark.addEventListener('change', redraw);

  async function update(its) {
    const chosen = {};
    for (const [key, control] of Object.entries(controls)) {
      const valid = key === 'mark' ? MARKS.some(([mark]) => mark === its.mark) : all.includes(its[key]) || its[key] === '-';
      chosen[key] = valid ? its[key] : guess[key];
      control.set(chosen[key] || '-');
    }
    spec = specification(answer, chosen, numbers);
    target.setAttribute('aria-label', `${chosen.y} by ${chosen.x}. The table has the numbers.`);
    await redraw();
  }

  function stop() {
    stopped = true;
    watch.disconnect();
    dark.removeEventListener('change', redraw);
    view?.finalize();
  }

  return { element, update, stop };
}

// Okabe and Ito's, as the report's.
const COLOURS = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9'];

function specification(answer, { mark, x, y, colour }, numbers) {
  const names = answer.columns.map((column) => column.name);
  // Vega reads dots and brackets in field names as paths: columns go in by index.
  const field = (column) => `c${names.indexOf(column)}`;
  const values = answer.rows.map((row) => Object.fromEntries(row.map((value, i) => [`c${i}`, value])));
  const coloured = names.includes(colour);
  const few = coloured && new Set(values.map((row) => row[field(colour)])).size <= COLOURS.length;
  const short = (column) => (values.some((row) => Math.abs(row[field(column)]) >= 10_000) ? '~s' : ',.4~g');
  const quantity = numbers.includes(x) && mark !== 'bar';
  return {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    data: { values },
    width: 560,
    height: 340,
    mark: mark === 'line' ? { type: 'line', point: { size: 28 } } : { type: mark, ...(mark === 'point' && { filled: true, size: 45 }) },
    encoding: {
      x: { field: field(x), type: quantity ? 'quantitative' : 'ordinal', title: x, sort: null, axis: { labelAngle: quantity ? 0 : -40, labelOverlap: true, ...(quantity && { format: short(x) }) }, ...(quantity && { scale: { zero: false } }) },
      y: { field: field(y), type: 'quantitative', title: y, axis: { format: short(y) } },
      color: coloured
        ? { field: field(colour), type: numbers.includes(colour) && !few ? 'quantitative' : 'nominal', title: colour, sort: null, scale: few ? { range: COLOURS } : { scheme: 'viridis' }, legend: { orient: 'right' } }
        : { value: COLOURS[0] },
    },
    config: { aria: false, background: '#ffffff', font: 'Liberation Sans, Arial, Helvetica, sans-serif', view: { stroke: '#d1d5db' }, axis: { gridColor: '#e5e7eb', titleFontWeight: 'normal' }, legend: { titleFontWeight: 'normal' } },
  };
}
