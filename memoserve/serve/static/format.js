// Numbers for people.

const grouped = new Intl.NumberFormat('en-US');
const short = new Intl.NumberFormat('en-US', { notation: 'compact', maximumSignificantDigits: 3 });

export const NONE = '–';

const missing = (value) => value === null || value === undefined || Number.isNaN(value);

/** 12,345 */
export const count = (value) => (missing(value) ? NONE : grouped.format(value));

/** 1.25M */
export const compact = (value) => (missing(value) ? NONE : short.format(value));

/** 12.3%, with more digits where it is small. */
export function percent(share) {
  if (missing(share)) return NONE;
  if (share === 0 || share === 1) return `${share * 100}%`;
  const value = share * 100;
  if (value < 0.01) return `${value.toPrecision(2)}%`;
  if (value < 1) return `${Number(value.toPrecision(2))}%`;
  // 99.96% must not read as everything.
  return `${value > 99.9 ? Math.min(value, 99.99).toFixed(2) : value.toFixed(1)}%`;
}

const RAISED = { '-': '⁻', 0: '⁰', 1: '¹', 2: '²', 3: '³', 4: '⁴', 5: '⁵', 6: '⁶', 7: '⁷', 8: '⁸', 9: '⁹' };

/** 1.2 × 10¹⁵ */
export function power(value) {
  if (missing(value)) return NONE;
  if (value === 0) return '0';
  const [digits, exponent] = value.toExponential(1).split('e');
  return `${digits} × 10${[...String(Number(exponent))].map((digit) => RAISED[digit]).join('')}`;
}

/** 3 min 20 s */
export function duration(seconds) {
  if (missing(seconds)) return NONE;
  const rest = Math.max(0, Math.round(seconds));
  if (rest < 60) return `${rest} s`;
  const [whole, minutes] = [Math.floor(rest / 60), Math.round(rest / 60)];
  if (rest < 3600) return rest % 60 ? `${whole} min ${rest % 60} s` : `${whole} min`;
  return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes / 60} h`;
}

/** The same where seconds would say too much. */
export const roughly = (seconds) => duration(missing(seconds) || seconds < 90 ? seconds : Math.round(seconds / 60) * 60);

/** A time, in seconds since 1970, as the reader's clock has it. */
export const moment = (seconds) =>
  missing(seconds) ? NONE : new Date(seconds * 1000).toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });

/** Any value of an answer: numbers short, nothing else changed. */
export function plain(value, column = '') {
  if (value === null || value === undefined) return '';
  if (typeof value === 'number') {
    if (Number.isInteger(value)) return /(_id|^id|step)$/.test(column) ? String(value) : grouped.format(value);
    const size = Math.abs(value);
    return size >= 1e15 || size < 1e-4 ? value.toExponential(3) : String(Number(value.toPrecision(5)));
  }
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}
