// What the pages do beside htmx: they tell ages, and when there are no data. Without it they work by being loaded again.
(() => {
  'use strict';
  const SILENT_S = 5, CONNECT_S = 10, PLAYED_S = 15, SPOKEN_MAX = 5, UNKNOWN_S = 10;
  let heardAt = performance.now() / 1000, ahead = 0, tried = heardAt;

  // htmx's markup comes from this controller's stream alone; nothing that is text is ever run.
  const policy = window.trustedTypes
    ? trustedTypes.createPolicy('fwd', { createHTML: text => text })
    : { createHTML: text => text };
  const trusted = { createHTML: text => policy.createHTML(text), createScript: () => '' };
  const never = function () { throw new Error('no text is run here'); };

  function age(seconds) {
    if (seconds < 1.5) return 'now';
    if (seconds < 90) return `${Math.round(seconds)} s ago`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
    return seconds < 129600 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86400)} days ago`;
  }

  // `ahead`: this browser's clock less the controller's, so ages are right whatever it says, without a stream, too.
  function followClock() {
    const at = document.querySelector('#part-as_of time[data-clock]');
    if (at) ahead = Date.now() / 1000 - Number(at.dataset.clock);
  }

  function tellAges() {
    const now = Date.now() / 1000 - ahead;
    for (const one of document.querySelectorAll('time[data-age]')) {
      const at = Date.parse(one.dateTime) / 1000;
      const text = age(Math.max(0, now - at));
      if (one.textContent !== text) { one.title = one.dateTime; one.textContent = text; }
    }
  }

  function tellSilence() {
    const now = performance.now() / 1000, silent = now - heardAt, stale = document.getElementById('stale');
    if (!stale || !document.getElementById('stream')) return; // what is of another time is not live
    const isSilent = silent > SILENT_S;
    document.body.classList.toggle('silent', isSilent);
    if (isSilent && stale.hidden) {
      const since = new Date(Date.now() - silent * 1000).toISOString().slice(11, 19);
      stale.textContent = `No data since ${since} UTC: what is below is old. It goes on by itself once the controller answers.`;
      speak(stale.textContent);
    } else if (!isSilent && !stale.hidden && document.getElementById('part-news').textContent === stale.textContent) {
      speak('Data are here again.'); // unless there are news already
    }
    stale.hidden = !isSilent;
    const stream = document.getElementById('stream');
    if (isSilent && stream && !stream._htmx?.sse && now - tried > CONNECT_S && !document.hidden) {
      tried = now;
      htmx.ajax('GET', stream.getAttribute('hx-sse:connect'), { source: stream, swap: 'none' });
    }
  }

  // What this page shows is gone, or its session has ended: loading it again says which.
  function leaveIf(status) {
    if (status === 401 || status === 404) location.reload();
  }

  // Changes of state are read aloud, those of the time without a stream, too; nothing else is.
  function states() {
    return new Map([...document.querySelectorAll('#part-states [data-what]')].map(one => [one.dataset.what, one.textContent]));
  }

  // A controller that has just begun to lead knows nothing of anybody for a moment: that is told if it lasts.
  let known = states();
  const unknownAt = new Map();
  function tellStates() {
    const now = states(), at = performance.now() / 1000;
    for (const [what, word] of now) {
      if (!word.startsWith('unknown')) { unknownAt.delete(what); continue; }
      if (!unknownAt.has(what)) unknownAt.set(what, at);
      if (known.has(what) && at - unknownAt.get(what) < UNKNOWN_S) now.set(what, known.get(what));
    }
    const texts = [...now].filter(([what, word]) => known.get(what) !== word).map(([what, word]) => `${what} is ${word}`);
    texts.push(...[...known.keys()].filter(what => !now.has(what)).map(what => `${what} is gone`));
    known = now;
    if (!texts.length) return;
    const more = texts.length > SPOKEN_MAX ? `, and ${texts.length - SPOKEN_MAX} more` : '';
    speak(texts.slice(0, SPOKEN_MAX).join(', ') + more);
  }

  function speak(text) {
    document.getElementById('part-news').textContent = text;
  }

  // The last hour: the slider shows the map as it was, and the events up to then; a page that replays is not live.
  let asked = 0, playing = 0;
  async function replay() {
    const form = document.getElementById('replay'), mine = ++asked;
    document.getElementById('stream')?.remove();
    const answer = await fetch(`/events?${new URLSearchParams(new FormData(form))}`).catch(() => null);
    const text = answer?.ok ? await answer.text().catch(() => null) : null;
    if (text === null) { stop(); if (answer) leaveIf(answer.status); return; }
    if (mine !== asked) return;
    const page = new DOMParser().parseFromString(policy.createHTML(text), 'text/html');
    for (const id of ['replay-out', 'part-events', 'part-as_of']) {
      document.getElementById(id).replaceChildren(...page.getElementById(id).childNodes);
    }
    tellAges();
  }

  function stop() {
    clearInterval(playing);
    playing = 0;
    document.getElementById('replay-play').textContent = 'Play';
  }

  function play() {
    if (playing) return stop();
    document.getElementById('replay-play').textContent = 'Stop';
    playing = setInterval(() => {
      const slider = document.getElementById('replay-at');
      slider.value = Math.min(Number(slider.value) + PLAYED_S, 0);
      replay();
      if (Number(slider.value) >= 0) stop();
    }, 500);
  }

  document.addEventListener('input', one => { if (one.target.id === 'replay-at') replay(); });
  document.addEventListener('click', one => { if (one.target.id === 'replay-play') play(); });

  htmx.registerExtension('fwd', {
    init: api => api.initSecurity(trusted, never, never),
    htmx_sse_after_message: (element, detail) => {
      heardAt = performance.now() / 1000;
      followClock();
      tellAges();
      tellStates();
      tellSilence();
    },
    htmx_sse_error: (element, detail) => leaveIf(detail.status),
    htmx_response_error: (element, detail) => leaveIf(detail.ctx.response.status), // a stream that has not begun
  });
  followClock();
  setInterval(() => { tellAges(); tellSilence(); }, 500);
  document.getElementById('unscripted')?.remove(); // this page goes on by itself, or says that it does not
})();
