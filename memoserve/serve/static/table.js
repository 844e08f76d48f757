// Tables: sortable, scrolling in themselves, operable by keyboard.
import { h } from './dom.js';
import { NONE, percent, plain } from './format.js';

const by = (value) => (a, b) => {
  const [x, y] = [value(a), value(b)];
  if (x === y) return 0;
  if (x === null || x === undefined) return 1;
  if (y === null || y === undefined) return -1;
  return x < y ? -1 : 1;
};

/**
 * `columns`: { name, label, about, number, cell(row), value(row) }; the first is the row's heading. `cell` gives
 * text or a node (default: the row's field), `value` what to sort by. `row(row)`: a class for it, if any.
 */
export function table(caption, columns, rows, { row: classOf = () => null, sortable = true } = {}) {
  const body = h('tbody');
  const draw = (list) => body.replaceChildren(...list.map((row) => h('tr', { class: classOf(row) || null },
    columns.map((column, index) => h(index ? 'td' : 'th', { scope: index ? null : 'row', class: [column.number && 'n', column.wrap && 'wrap'].filter(Boolean).join(' ') || null },
      column.cell ? column.cell(row) : plain(row[column.name], column.name))))));
  draw(rows);
  const heads = columns.map((column) => {
    const head = h('th', { scope: 'col', class: column.number ? 'n' : null, title: column.about });
    if (!sortable || rows.length < 2) head.append(column.label ?? column.name);
    else head.append(h('button', { type: 'button', onclick: () => sort(head, column) }, column.label ?? column.name));
    return head;
  });
  function sort(head, column) {
    // Numbers from the largest at first, words from A.
    const now = head.getAttribute('aria-sort');
    const next = now === null ? (column.number ? 'descending' : 'ascending') : now === 'ascending' ? 'descending' : 'ascending';
    for (const other of heads) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', next);
    const value = column.value ?? ((row) => row[column.name]);
    const missing = rows.filter((row) => value(row) === null || value(row) === undefined);
    const known = rows.filter((row) => !missing.includes(row)).sort(by(value));
    draw([...(next === 'ascending' ? known : known.reverse()), ...missing]);
  }
  // Focusable, so that arrow keys scroll it.
  return h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption },
    h('table', {}, h('caption', {}, h('span', {}, caption)), h('thead', {}, h('tr', {}, heads)), body));
}

/** A share with its interval below. */
export function share(name, label, about) {
  return {
    name, label, about, number: true,
    cell(row) {
      if (row[name] === null || row[name] === undefined) return NONE;
      const [low, high] = [row[`${name}_low`], row[`${name}_high`]];
      return [percent(row[name]), low !== null && low !== undefined && h('span', { class: 'range' }, `${percent(low)} – ${percent(high)}`)];
    },
  };
}

const NUMERIC = /^(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*|NUMBER)$/i;

/** Whether a column's type is a number's. */
export const isNumber = (type) => NUMERIC.test(type);

/** An answer of the API as it is: every column, every row. */
export function answerTable(caption, answer, about = {}) {
  const columns = answer.columns.map(({ name, type }, index) => ({
    name, about: about[name], number: isNumber(type),
    cell: (row) => plain(row[index], name), value: (row) => row[index],
  }));
  return table(caption, columns, answer.rows);
}
