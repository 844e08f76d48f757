// Vega-Lite as the server gives it, fitted to the page: its width, its light, and one unit of two.
const vega = () => import('./vendor/vega.min.js');

export const dark = matchMedia('(prefers-color-scheme: dark)');

// As viridis from its middle on, so that the smallest model stands out from a dark page too.
const RAMP = ['#a48df0', '#7f9bf2', '#5cadea', '#43bfc9', '#52cf9d', '#8ddb62', '#c8e34b', '#fde725'];

const DARK = {
  background: 'transparent',
  axis: { gridColor: '#2c343f', domainColor: '#6f7b8c', tickColor: '#6f7b8c', labelColor: '#c3cad4', titleColor: '#e6e9ee' },
  legend: { labelColor: '#c3cad4', titleColor: '#e6e9ee' },
  header: { labelColor: '#e6e9ee', titleColor: '#e6e9ee' },
  title: { color: '#e6e9ee', subtitleColor: '#a7b0bd' },
  view: { stroke: '#3b4350' },
};

// Okabe and Ito's colours where they are too dark for a dark page.
const LIGHTER = { '#0072B2': '#56B4E9', '#56B4E9': '#a8d8f5', '#D55E00': '#f0883e', '#009E73': '#2fc79b', '#6b7280': '#9aa5b4' };

function ramp(length) {
  const at = (position) => {
    const low = Math.min(Math.floor(position), RAMP.length - 2);
    const parts = [1, 3, 5].map((i) => {
      const [a, b] = [RAMP[low], RAMP[low + 1]].map((colour) => parseInt(colour.slice(i, i + 2), 16));
      return Math.round(a + (b - a) * (position - low)).toString(16).padStart(2, '0');
    });
    return `#${parts.join('')}`;
  };
  return Array.from({ length }, (_, i) => at(length < 2 ? 2 : (i * (RAMP.length - 1)) / (length - 1)));
}

// Every object of a specification, its data aside.
function walk(node, visit) {
  if (Array.isArray(node)) node.forEach((one) => walk(one, visit));
  else if (node && typeof node === 'object') {
    visit(node);
    for (const [key, value] of Object.entries(node)) if (key !== 'data' && key !== 'datasets') walk(value, visit);
  }
}

function darken(spec) {
  walk(spec, (node) => {
    const { domain, range } = node;
    if (Array.isArray(domain) && Array.isArray(range) && /^#(440154|3b528b)$/i.test(range[0])) node.range = ramp(range.length);
    for (const [key, value] of Object.entries(node)) {
      if (typeof value === 'string' && LIGHTER[value]) node[key] = LIGHTER[value];
      else if (Array.isArray(value)) node[key] = value.map((one) => LIGHTER[one] ?? one);
    }
  });
}

const merged = (a, b) => {
  const both = { ...a };
  for (const [key, value] of Object.entries(b)) both[key] = value && typeof value === 'object' && !Array.isArray(value) ? merged(a[key] ?? {}, value) : value;
  return both;
};

/** The specification with the rows of one unit only, where rows have one; a facet by unit becomes a plain panel. */
export function ofUnit(spec, unit) {
  const rows = spec.data?.values;
  if (!unit || !rows?.some((row) => row.unit)) return spec;
  const its = { ...spec, data: { ...spec.data, values: rows.filter((row) => row.unit === unit) } };
  if (spec.facet?.field !== 'unit') return its;
  const plain = { ...its, ...its.spec };
  for (const key of ['facet', 'columns', 'spec', 'resolve']) delete plain[key];
  return plain;
}

/** The specification for an area `width` pixels wide. */
export function fitted(original, width) {
  const spec = structuredClone(original);
  delete spec.title;
  const narrow = width < 560;
  const panels = spec.facet || spec.concat;
  if (panels) {
    // One panel takes the whole width; a field that is made in the picture can't be counted.
    const kinds = new Set(spec.data?.values.map((row) => row[spec.facet?.field]));
    spec.columns = Math.min(spec.columns ?? 2, narrow || (kinds.size === 1 && !kinds.has(undefined)) ? 1 : 2);
    // Beside a panel: its axis, and on the right the legend.
    const room = Math.floor((width - (narrow ? 0 : 110)) / spec.columns) - (narrow ? 75 : 80);
    for (const panel of spec.facet ? [spec.spec] : spec.concat) {
      panel.height = Math.round((panel.height * Math.min(1.25, room / panel.width)) / 10) * 10 || panel.height;
      panel.width = Math.max(160, room);
    }
  } else {
    spec.width = width;
    spec.height = Math.max(spec.height ?? 0, narrow ? 260 : 340);
    spec.autosize = { type: 'fit-x', contains: 'padding' };
  }
  walk(spec, (node) => {
    if (narrow && node.legend && node.legend.orient === 'right') node.legend = { ...node.legend, orient: 'bottom', columns: 3 };
    if (node.mark && ['point', 'bar', 'rect'].includes(node.mark.type ?? node.mark)) node.mark = { ...(node.mark.type ? node.mark : { type: node.mark }), tooltip: true };
    if (node.mark?.type === 'line' && node.mark.point) node.mark.point = { ...(node.mark.point === true ? {} : node.mark.point), tooltip: true };
  });
  walk(spec, (node) => {
    for (const [channel, room] of [['x', panels ? (spec.spec ?? spec.concat[0]).width : width], ['y', (spec.spec ?? spec.concat?.[0] ?? spec).height]]) {
      const its = node.encoding?.[channel];
      if (typeof its?.title === 'string') its.title = broken(its.title, Math.floor(room / 5.6));
    }
    const x = node.encoding?.x;
    if (x?.type === 'quantitative' && x.axis?.values === undefined && x.axis?.tickCount === undefined) x.axis = { ...x.axis, tickCount: narrow ? 5 : 8 };
  });
  // Numbers in tooltips; axes have formats of their own.
  spec.config = { ...spec.config, numberFormat: ',.4~g' };
  if (dark.matches) {
    darken(spec);
    spec.config = merged(spec.config, DARK);
  } else spec.config.background = 'transparent';
  return spec;
}

/** A title in two lines, where one is longer than `most` characters. */
function broken(title, most) {
  const pause = Math.max(title.lastIndexOf(' (', most), title.lastIndexOf(', ', most) + 1);
  const space = pause > 0 ? pause : title.lastIndexOf(' ', most);
  return title.length <= most || space < 0 ? title : [title.slice(0, space), title.slice(space + 1)];
}

async function view(spec, options) {
  const { compile, expressionInterpreter, parse, View, Warn } = await vega();
  const quiet = { level: () => quiet, warn: () => quiet, info: () => quiet, debug: () => quiet, error: (...messages) => { console.error(...messages); return quiet; } };
  const compiled = compile(spec, { logger: quiet }).spec;
  return new View(parse(compiled, null, { ast: true }), { expr: expressionInterpreter, logLevel: Warn, logger: quiet, ...options });
}

/** Draws into `element`; gives the view, for signals and finalize(). */
export async function draw(spec, element) {
  const drawn = await view(spec, { renderer: 'svg', container: element, hover: true });
  await drawn.runAsync();
  // The picture around it has a name, and a table.
  element.querySelector('svg')?.setAttribute('aria-hidden', 'true');
  // Where it is wider than its container, the keyboard must reach it to scroll it.
  if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
  else element.removeAttribute('tabindex');
  return drawn;
}

/** A file of the picture as the server describes it, title and white ground and all. `kind`: svg or png. */
export async function picture(spec, kind) {
  const drawn = await view(spec, { renderer: 'none' });
  try {
    if (kind === 'svg') return new Blob([await drawn.toSVG()], { type: 'image/svg+xml' });
    const canvas = await drawn.toCanvas(2);
    return await new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
  } finally {
    drawn.finalize();
  }
}
