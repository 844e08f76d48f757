// A picture with its title, how to read it, its files, its table.
import { address, get, keep } from './api.js';
import { dark, draw, fitted, ofUnit, picture } from './chart.js';
import { download, h, newId } from './dom.js';
import { area, empty } from './states.js';
import { answerTable } from './table.js';

/**
 * A figure of the plot `name`. show(parameters, unit): draw it with those of its query, of one unit if rows have
 * one. `adapt(spec)`: a page's own additions; `drawn(view)`: told of each drawing.
 */
export function figure(name, { link, adapt = (spec) => spec, drawn = () => {}, parameters: fixed = {} }) {
  const title = h('h2', { id: newId('figure') }, 'Figure');
  const reading = h('p');
  const drawing = area('Drawing…');
  const files = h('div', { class: 'files' });
  const data = h('details', { hidden: true });
  const element = h('figure', { 'aria-labelledby': title.id }, h('figcaption', {}, title, reading), drawing.element, files, data);
  let current = null; // { spec, view, target, width }

  async function redraw() {
    if (!current) return;
    const mine = current;
    const width = Math.floor(mine.target.clientWidth || element.clientWidth - 34);
    if (width < 50) return;
    mine.width = width;
    mine.view?.finalize();
    mine.view = null;
    const view = await draw(adapt(fitted(mine.spec, width)), mine.target);
    if (mine !== current || mine.view) {
      view.finalize();
      return;
    }
    mine.view = view;
    drawn(view);
  }

  // As wide as the page, whatever it becomes.
  const watch = new ResizeObserver(() => {
    if (current?.width && Math.abs(current.target.clientWidth - current.width) > 2) redraw();
  });
  watch.observe(element);
  dark.addEventListener('change', redraw);

  async function show(parameters, unit) {
    const asked = { ...fixed, ...parameters };
    const plot = (await keep('plots')).find((one) => one.name === name);
    title.textContent = plot.title;
    reading.textContent = plot.reading;
    await drawing.fill((signal) => get(`plots/${name}`, asked, signal), (whole) => {
      const spec = ofUnit(whole, unit);
      if (!spec.data.values.length) {
        current?.view?.finalize();
        current = null;
        files.replaceChildren();
        data.hidden = true;
        return empty(unit ? `Nothing here is counted in ${unit}.` : 'There is nothing to draw.');
      }
      const target = h('div', { class: 'picture', role: 'img', 'aria-label': `${plot.title}. ${plot.reading} The table below has the numbers.` });
      current?.view?.finalize();
      current = { spec, whole, target };
      files.replaceChildren(...links(plot, whole, asked));
      offerTable(plot, spec);
      return target;
    });
    await redraw();
  }

  function links(plot, spec, asked) {
    const file = (kind) => h('button', { type: 'button', 'aria-label': `Download ${plot.title} as ${kind.toUpperCase()}`,
      onclick: async () => download(`${name}.${kind}`, await picture(spec, kind)) }, kind.toUpperCase());
    const sql = async () => {
      const query = (await keep('queries')).find((one) => one.name === plot.query);
      download(`${plot.query}.sql`, query.sql, 'application/sql');
    };
    return [
      'Download',
      file('svg'),
      file('png'),
      h('a', { href: address(`queries/${plot.query}`, { ...asked, format: 'csv' }), download: `${plot.query}.csv`, 'aria-label': `Download the data of ${plot.title} as CSV` }, 'CSV'),
      h('button', { type: 'button', 'aria-label': `Download the SQL of ${plot.title}`, onclick: sql }, 'SQL'),
      h('a', { href: link('sql', { query: plot.query, ...asked }) }, 'open on the SQL page'),
    ];
  }

  function offerTable(plot, spec) {
    const rows = spec.data.values;
    const names = Object.keys(rows[0]);
    const type = (column) => (rows.some((row) => typeof row[column] === 'number') ? 'DOUBLE' : 'VARCHAR');
    const answer = { columns: names.map((column) => ({ name: column, type: type(column) })), rows: rows.slice(0, 500).map((row) => names.map((column) => row[column])) };
    data.hidden = false;
    data.open = false;
    data.replaceChildren(h('summary', {}, 'The numbers'));
    data.ontoggle = () => {
      if (!data.open || data.childElementCount > 1) return;
      const note = rows.length > 500 ? `, the first 500 of ${rows.length} rows; the CSV has them all` : '';
      data.append(answerTable(`${plot.title} (query ${plot.query})${note}`, answer));
    };
  }

  function stop() {
    watch.disconnect();
    dark.removeEventListener('change', redraw);
    drawing.stop();
    current?.view?.finalize();
    current = null;
  }

  return { element, show, stop };
}
