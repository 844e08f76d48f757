// The frame around the pages: which one is shown, and what of the address belongs to it.
import { forget, keep } from './api.js';
import { h } from './dom.js';
import { failed } from './states.js';
import * as budget from './pages/budget.js';
import * as correlation from './pages/correlation.js';
import * as distribution from './pages/distribution.js';
import * as overview from './pages/overview.js';
import * as predictors from './pages/predictors.js';
import * as sql from './pages/sql.js';
import * as texts from './pages/texts.js';

const PAGES = { overview, predictors, budget, correlation, distribution, texts, sql };

// Selections that go along from page to page.
const SHARED = ['suite', 'target', 'unit'];

const main = document.getElementById('main');
const nav = document.getElementById('nav');
const menu = document.querySelector('.menu');

let shown = null; // { name, suite, update, leave }

/** The address: #/page?name=value */
function route() {
  const [, name, query] = location.hash.match(/^#\/(\w*)\??(.*)$/s) ?? [];
  return { name: Object.hasOwn(PAGES, name) ? name : 'overview', values: Object.fromEntries(new URLSearchParams(query ?? '')) };
}

/** The address of a page with those values; empty ones are left out. */
function link(name, values) {
  const kept = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== '');
  const query = new URLSearchParams(kept).toString();
  return `#/${name}${query ? `?${query}` : ''}`;
}

/** Change some values of the address; the page is told. `replace`: without a step for the back button. */
function select(changes, { replace = false } = {}) {
  const { name, values } = route();
  const to = link(name, { ...values, ...changes });
  if (to === location.hash) return;
  history[replace ? 'replaceState' : 'pushState'](null, '', to);
  go();
}

function drawNav({ name, values }) {
  const shared = Object.fromEntries(SHARED.map((key) => [key, values[key]]));
  for (const anchor of nav.querySelectorAll('a')) {
    anchor.href = link(anchor.dataset.page, shared);
    if (anchor.dataset.page === name) anchor.setAttribute('aria-current', 'page');
    else anchor.removeAttribute('aria-current');
  }
}

async function go() {
  const at = route();
  drawNav(at);
  // A page's controls are a suite's.
  if (shown?.name === at.name && shown.suite === at.values.suite) {
    shown.update(at.values);
    return;
  }
  shown?.leave?.();
  openMenu(false);
  const page = PAGES[at.name];
  const first = shown === null;
  shown = { name: at.name, suite: at.values.suite, update: () => {} };
  document.title = `${page.title} · memoserve`;
  const heading = h('h1', { tabindex: '-1' }, page.title);
  const opening = h('div', { class: 'state waiting', 'aria-busy': 'true' }, 'Loading…');
  main.replaceChildren(h('div', { class: 'head' }, heading, h('p', {}, page.lead)), opening);
  // A new page is read from its heading on; the first one from the top of the document.
  if (!first) {
    heading.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  const mine = shown;
  try {
    const store = await keep('store');
    if (shown !== mine) return;
    if (page.needsScores && !store.suites.some((suite) => suite.evaluated_checkpoints)) {
      main.append(nothingYet());
      return;
    }
    const content = document.createDocumentFragment();
    Object.assign(mine, await page.open(content, { store, select, link, values: at.values }));
    if (shown !== mine) {
      mine.leave?.();
      return;
    }
    main.append(content);
    mine.update(route().values);
  } catch (error) {
    if (shown === mine) {
      main.append(failed(error, () => { shown = null; forget(); go(); }));
    }
  } finally {
    opening.remove();
  }
}

const nothingYet = () =>
  h('div', { class: 'state' },
    'This store holds no scores yet, so there is nothing to show here.',
    h('a', { href: '#/overview' }, 'Start a run on the overview'));

function openMenu(open) {
  nav.classList.toggle('open', open);
  menu.setAttribute('aria-expanded', String(open));
}

function build() {
  nav.append(h('ul', {}, Object.entries(PAGES).map(([name, page]) => h('li', {}, h('a', { 'data-page': name }, page.short ?? page.title)))));
  menu.addEventListener('click', () => openMenu(!nav.classList.contains('open')));
  nav.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || menu.offsetParent === null) return;
    openMenu(false);
    menu.focus();
  });
  document.querySelector('.skip').addEventListener('click', (event) => {
    event.preventDefault();
    main.focus();
  });
  addEventListener('hashchange', go);
  addEventListener('popstate', go);
}

async function aboutStore() {
  const store = await keep('store');
  nav.append(h('div', { class: 'store' },
    h('b', {}, store.name),
    h('span', {}, `memoserve ${store.version}`),
    store.read_only && h('span', {}, 'read only: no runs can be started here')));
  if (store.synthetic) {
    document.getElementById('notices').append(
      h('p', { class: 'notice made-up', role: 'note' }, h('b', {}, 'Synthetic data. '), 'The scores of this store were made up, not measured: they say nothing about any model.'));
  }
}

build();
go();
aboutStore().catch(() => {}); // the page says it
