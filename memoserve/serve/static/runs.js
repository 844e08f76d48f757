// Runs: submit one, watch them, cancel.
import { Failure, get, getText, post } from './api.js';
import { check, choice, entry, picker } from './controls.js';
import { announce, h } from './dom.js';
import { count, duration, moment, percent, roughly } from './format.js';

const OVER = new Set(['done', 'failed', 'cancelled']);
const SHOWN = 5;

/** A section with the form and the list. `changed()`: a run has written scores. */
export function runs({ suites, engines, suite, store, changed }) {
  const list = h('ol', { class: 'runs', hidden: true });
  const older = h('div', { hidden: true });
  const cards = new Map(); // id -> { element, update, stop }
  const problem = h('p', { class: 'error', role: 'alert', hidden: true });
  let all = false;
  let looking = 0;
  let stopped = false;

  async function refresh() {
    clearTimeout(looking);
    try {
      const newest = inOrder(await get('runs', { limit: 100 }));
      if (stopped) return;
      problem.hidden = true;
      const waiting = newest.filter((run) => !OVER.has(run.state)).length;
      const kept = all ? newest : newest.slice(0, waiting + SHOWN);
      for (const [id, one] of cards) {
        if (!kept.some((run) => run.id === id)) {
          one.stop();
          cards.delete(id);
        }
      }
      for (const run of kept) {
        if (cards.has(run.id)) cards.get(run.id).update(run);
        else cards.set(run.id, card(run, { refresh, changed }));
      }
      const wanted = kept.map((run) => cards.get(run.id).element);
      if (wanted.some((element, index) => list.children[index] !== element) || list.childElementCount !== wanted.length) list.replaceChildren(...wanted);
      older.replaceChildren(...(kept.length < newest.length ? [h('button', { type: 'button', onclick: showAll }, `Show ${newest.length - kept.length} older`)] : []));
      list.hidden = !kept.length;
      older.hidden = !older.childElementCount;
      none.hidden = newest.length > 0;
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    }
    // Others may submit too; each run's own progress comes as it happens.
    if (!stopped) looking = setTimeout(refresh, 5000);
  }

  async function showAll() {
    all = true;
    const before = list.childElementCount;
    await refresh();
    // The button that had the focus is gone.
    list.children[before]?.querySelector('summary').focus();
  }

  const none = h('p', { class: 'soft', hidden: true }, 'No run has been submitted here yet.');
  const form = submission(suites, engines, suite, store, () => { opener.open = false; refresh(); });
  const opener = h('details', { id: 'new-run' }, h('summary', {}, 'Start a run'), form);
  opener.open = !store.suites.some((one) => one.evaluated_checkpoints);
  const element = h('section', {}, h('h2', {}, 'Runs'), opener, problem, none, list, older);
  refresh();
  return {
    element,
    stop() {
      stopped = true;
      clearTimeout(looking);
      for (const one of cards.values()) one.stop();
    },
  };
}

/** What works and what waits first, in the order of the queue; then what has ended, the newest first. */
function inOrder(newest) {
  const waiting = newest.filter((run) => !OVER.has(run.state)).sort((a, b) => (a.ahead ?? -1) - (b.ahead ?? -1) || a.id - b.id);
  return [...waiting, ...newest.filter((run) => OVER.has(run.state))];
}

const plural = (number, one) => `${count(number)} ${one}${number === 1 ? '' : 's'}`;
const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}`;

function describe(request) {
  const parts = [request.checkpoints ?? 'the suite’s own checkpoints'];
  if (request.sequences) parts.push(`sequences ${request.sequences}`);
  if (request.sample) parts.push(`a sample of ${percent(request.sample)} (seed ${request.seed})`);
  parts.push(`${request.mode} mode${request.loglik ? ' with log-likelihoods' : ''}`, request.engine);
  return parts.join(', ');
}

function card(first, { refresh, changed }) {
  let run = first;
  let events = null;
  let checkpoints = run.progress.checkpoints_done;
  const id = `run-${run.id}`;
  const chip = h('span', { class: 'chip' });
  const cancel = h('button', { type: 'button', 'aria-label': `Cancel run ${run.id}`, onclick: () => ask(cancel, `runs/${run.id}/cancel`, {}) }, 'Cancel');
  const again = h('button', { type: 'button', 'aria-label': `Submit run ${run.id} again`, onclick: () => ask(again, 'runs', run.request) }, 'Submit again');
  const bar = h('progress', { max: '1', 'aria-label': `Progress of run ${run.id}` });
  const words = h('p', { class: 'small soft' });
  const failure = h('p', { class: 'error small', hidden: true });
  const log = h('details', {}, h('summary', { class: 'small' }, 'Log'));
  log.addEventListener('toggle', showLog);
  const element = h('li', { id },
    h('div', { class: 'line' }, chip, h('b', {}, `Run ${run.id}: ${run.request.suite}`),
      h('span', { class: 'soft small' }, [run.request.by, moment(run.created)].filter(Boolean).join(', ')), h('div', { class: 'buttons' }, again, cancel)),
    run.request.note && h('p', {}, run.request.note),
    h('p', { class: 'small' }, describe(run.request)),
    bar, words, failure, log);

  let logAsked = 0;
  async function showLog() {
    if (!log.open) return;
    logAsked = Date.now();
    let text;
    try {
      text = (await getText(`runs/${run.id}/log`)) || 'Nothing was printed yet.';
    } catch (error) {
      text = error.message;
    }
    const pre = log.querySelector('pre') ?? log.appendChild(h('pre', { tabindex: '0', role: 'region', 'aria-label': `Log of run ${run.id}` }));
    // At its end it follows what comes; who reads further up is left there.
    const following = pre.scrollHeight - pre.scrollTop - pre.clientHeight < 20;
    pre.textContent = text;
    if (following) pre.scrollTop = pre.scrollHeight;
  }

  async function ask(button, path, body) {
    button.disabled = true;
    try {
      await post(path, body);
      refresh();
    } catch (error) {
      failure.textContent = error.message;
      failure.hidden = false;
    }
    button.disabled = false;
  }

  function show() {
    const { state, progress } = run;
    chip.textContent = run.cancel_requested && !OVER.has(state) ? 'stopping' : state;
    chip.className = `chip ${state}`;
    cancel.hidden = OVER.has(state);
    cancel.disabled = run.cancel_requested;
    again.hidden = state !== 'failed' && state !== 'cancelled';
    const done = progress.all_total ? progress.all_done / progress.all_total : null;
    bar.hidden = state !== 'running' && (state !== 'cancelled' || done === null);
    if (done === null) bar.removeAttribute('value');
    else bar.value = done;
    words.textContent = told(run, done);
    const failures = progress.failures.map((one) => `${one.checkpoint}: ${one.reason}`);
    failure.textContent = [run.message && state === 'failed' ? run.message : '', ...failures].filter(Boolean).join('\n');
    failure.hidden = !failure.textContent;
  }

  // A browser has six connections to a server, for all its tabs together: one a tab is what there is, for the
  // run that works or is next, and none for a tab that nobody sees. The list is asked for now and then anyway.
  function watch() {
    if (document.hidden || (run.state !== 'running' && run.ahead !== 0)) {
      stop();
      return;
    }
    if (events) return;
    events = new EventSource(`api/runs/${run.id}/events`);
    events.addEventListener('progress', (event) => {
      const progress = JSON.parse(event.data);
      run = { ...run, state: progress.state, progress, message: progress.message };
      show();
      if (Date.now() - logAsked > 2000) showLog();
      if (progress.checkpoints_done > checkpoints) {
        checkpoints = progress.checkpoints_done;
        changed();
      }
    });
    events.addEventListener('end', (event) => {
      stop();
      const progress = JSON.parse(event.data);
      run = { ...run, state: progress.state, progress, message: progress.message ?? run.message };
      show();
      announce(`Run ${run.id} is ${run.state}.`);
      if (log.open) showLog();
      changed();
      refresh();
    });
  }

  function stop() {
    events?.close();
    events = null;
  }

  document.addEventListener('visibilitychange', watch);
  show();
  watch();
  return {
    element,
    stop() {
      document.removeEventListener('visibilitychange', watch);
      stop();
    },
    update(next) {
      run = next;
      show();
      watch();
    },
  };
}

/** What a run does after an event that says so, by the names of `memoserve run --progress json`. */
const evaluating = ({ checkpoint }) => `Evaluating ${checkpoint}`;
const DOING = {
  plan: () => 'Reading sequences',
  indexing: () => 'Reading sequences',
  engine_starting: ({ model }) => `Starting the engine for ${model}`,
  engine_up: ({ model }) => `Loading ${model}`,
  checkpoint_started: evaluating,
  progress: evaluating,
  part_done: evaluating,
  end: () => 'Ending',
};

function told(run, done) {
  const { state, progress, estimate, ahead } = run;
  if (state === 'queued') {
    const turn = run.message ? sentence(run.message) : ahead ? `${ahead === 1 ? 'One run comes' : `${count(ahead)} runs come`} before it` : 'Is next';
    return [`${turn}. ${count(estimate.sequences)} scores of ${plural(estimate.checkpoints, 'checkpoint')}`, estimate.seconds && `about ${roughly(estimate.seconds)}`].filter(Boolean).join(', ') + '.';
  }
  if (state === 'running') {
    const parts = [DOING[progress.event]?.(progress) ?? 'Starting'];
    if (progress.all_total) parts.push(`${count(progress.all_done)} of ${count(progress.all_total)} scores (${percent(done)})`);
    if (progress.checkpoints_total) parts.push(`${progress.checkpoints_done} of ${progress.checkpoints_total} checkpoints`);
    if (progress.windows_per_second) parts.push(`${count(Math.round(progress.windows_per_second))} windows/s`);
    if (progress.seconds_left) parts.push(`about ${roughly(progress.seconds_left)} left`);
    return parts.join(', ');
  }
  const took = run.started && run.ended ? ` in ${duration(run.ended - run.started)}` : '';
  if (state === 'done') return progress.all_total ? `${count(progress.all_total)} scores written${took}.` : `Everything was there already${took}.`;
  if (state === 'cancelled') return run.started ? `Stopped at ${count(progress.all_done)} of ${count(progress.all_total)} scores; what was written whole is kept, and a run like it goes on from there.` : 'Cancelled before it began.';
  return `Ended${took}; what was written whole is kept.`;
}

const ENGINES = { vllm: 'vLLM', transformers: 'Transformers (the reference)' };

function submission(suites, engines, suite, store, submitted) {
  const values = { suite, by: storedName() };
  const keep = (name) => (value) => { values[name] = value; };
  const controls = {
    suite: picker('Suite', suites.map((name) => [name, name]), (name) => { values.suite = name; asStored(); }),
    checkpoints: entry('Checkpoints', keep('checkpoints'), { placeholder: 'the suite’s own choice', hint: 'all, final, or a list with patterns, such as 70m@143000,12b@*' }),
    sequences: entry('Sequences', keep('sequences'), { placeholder: 'all', hint: 'a range of ids, such as 0:1000', pattern: '[0-9]*:[0-9]*', title: 'two numbers with a colon between' }),
    sample: entry('Sample', keep('sample'), { type: 'number', min: '0', max: '1', step: 'any', placeholder: 'none', inputmode: 'decimal', hint: 'random fraction of sequences: 0.01' }),
    seed: entry('Seed of the sample', keep('seed'), { type: 'number', min: '0', step: '1', placeholder: '0', inputmode: 'numeric' }),
    data: entry('Data', keep('data'), { placeholder: 'the suite’s own', hint: 'a file in the folder that the service offers (--data)' }),
    by: entry('Your name', keep('by'), { placeholder: 'nobody', hint: 'for the others; kept in this browser', maxlength: '100' }),
    note: entry('Note', keep('note'), { placeholder: 'none', hint: 'what the run is for', maxlength: '500' }),
    engine: picker('Engine', engines.map((name) => [name, ENGINES[name] ?? name]), keep('engine')),
  };
  const mode = choice('Mode', [['score', 'Score'], ['extract', 'Extract']], keep('mode'));
  const loglik = check('Log-likelihoods too', keep('loglik'));
  for (const [name, control] of Object.entries(controls)) control.set(values[name] ?? '');
  const only = h('span', { class: 'small soft' });
  asStored();

  /** Like the scores that are here: a store never mixes unlike ones. */
  function asStored() {
    const { mode: its, engine = 'vllm', loglik: likely } = store.suites.find((one) => one.suite === values.suite)?.fingerprint ?? {};
    Object.assign(values, { mode: its ?? 'score', engine, loglik: Boolean(likely) });
    mode.set(values.mode);
    controls.engine.set(values.engine);
    loglik.set(values.loglik);
    only.textContent = its ? `This store’s scores of ${values.suite} are of this mode and engine, and others can’t join them. ` : '';
  }
  const problem = h('p', { class: 'error', role: 'alert' });
  const button = h('button', { class: 'main' }, 'Start');
  const form = h('form', { class: 'run', 'aria-label': 'Start a run' },
    h('div', { class: 'row' }, controls.suite.element, controls.checkpoints.element),
    h('div', { class: 'row' }, controls.sequences.element, controls.sample.element, controls.seed.element),
    h('div', { class: 'row' },
      h('div', { class: 'field' }, mode.element, h('span', { class: 'hint' }, 'Score: how many of 32 tokens match. Extract: whether all do, faster.')),
      controls.engine.element, controls.data.element),
    h('div', {}, loglik.element, h('div', {}, only)),
    h('div', { class: 'row' }, controls.by.element, controls.note.element),
    problem,
    h('div', { class: 'buttons' }, button, h('span', { class: 'small soft' }, 'What is there already is not evaluated again.')));
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    problem.textContent = '';
    button.disabled = true;
    button.textContent = 'Checking…';
    try {
      const number = (text) => (text === undefined || text === '' ? undefined : Number(text));
      const run = await post('runs', {
        ...Object.fromEntries(['suite', 'checkpoints', 'sequences', 'data', 'mode', 'engine', 'by', 'note'].map((name) => [name, values[name] || undefined])),
        sample: number(values.sample), seed: number(values.seed), loglik: Boolean(values.loglik),
      });
      announce(`Run ${run.id} is ${run.state}.`);
      storeName(values.by);
      submitted(run);
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      problem.textContent = error.message;
    } finally {
      button.disabled = false;
      button.textContent = 'Start';
    }
  });
  return form;
}

// A browser may refuse to keep anything.
function storedName() {
  try {
    return localStorage.getItem('memoserve name') ?? '';
  } catch {
    return '';
  }
}

function storeName(name) {
  try {
    localStorage.setItem('memoserve name', name ?? '');
  } catch {
    // Then it is asked for again.
  }
}
