// Charts, drawn from the table of all images at the width they get, so that text keeps its size on a phone.
const rows = [...document.querySelectorAll('#rows tbody tr')].map(row => ({
  row, id: row.id, name: row.dataset.name,
  value: column => asNumber(row.dataset[column]),
  text: column => row.cells[columns.indexOf(column) + 1].textContent,
}));
const columns = [...Object.keys(document.querySelector('#rows tbody tr')?.dataset ?? {})].filter(key => key !== 'name');

// Text of a number on an axis.
const minus = value => (Math.abs(value) >= 1e5 ? value.toExponential().replace('+', '') : String(value)).replaceAll('-', '−');

// The axis with at least `parts` round steps that covers all values; its ends are ticks.
function axisOver(values, parts) {
  let low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const power = 10 ** Math.floor(Math.log10((high - low) / parts));
  const step = Math.max(...[1, 2, 5].map(m => m * power).filter(s => s * parts <= (high - low) * (1 + 1e-9)));
  const first = Math.floor(low / step + 1e-9), last = Math.ceil(high / step - 1e-9);
  const ticks = Array.from({length: last - first + 1}, (_, k) => Number(((first + k) * step).toPrecision(9)));
  return {low: ticks[0], high: ticks.at(-1), step, first, last, ticks};
}

function element(parent, name, attributes = {}, text = '') {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  parent.append(made);
  return made;
}

// Frame, grid lines, ticks and labels; returns the drawing with its two scales.
function frame(plot, x, y, labels, description, role) {
  const width = plot.clientWidth, left = 60, right = 10, top = 10, bottom = 46;
  const height = Math.min(width - left - right, 420) + top + bottom;
  const svg = element(document.createDocumentFragment(), 'svg',
    {width, height, viewBox: `0 0 ${width} ${height}`, role, 'aria-label': description});
  const atX = value => left + (value - x.low) / (x.high - x.low) * (width - left - right);
  const atY = value => height - bottom - (value - y.low) / (y.high - y.low) * (height - top - bottom);
  const box = {x: left, y: top, width: width - left - right, height: height - top - bottom};
  const below = element(svg, 'g');
  for (const tick of y.ticks) {
    element(svg, 'line', {class: 'grid-line', x1: left, x2: width - right, y1: atY(tick), y2: atY(tick)});
    element(svg, 'text', {class: 'tick', x: left - 8, y: atY(tick), dy: '.32em', 'text-anchor': 'end'}, minus(tick));
  }
  // A label needs room: on a narrow screen only every second tick has one.
  const every = Math.ceil(x.ticks.length * 40 / box.width);
  x.ticks.forEach((tick, k) => {
    element(svg, 'line', {class: 'tick-mark', x1: atX(tick), x2: atX(tick), y1: height - bottom, y2: height - bottom + 4});
    if (k % every === 0)
      element(svg, 'text', {class: 'tick', x: atX(tick), y: height - bottom + 18, 'text-anchor': 'middle'}, minus(tick));
  });
  element(svg, 'line', {class: 'axis', x1: left, x2: width - right, y1: height - bottom, y2: height - bottom});
  element(svg, 'text', {class: 'axis-label', x: left + box.width / 2, y: height - 6, 'text-anchor': 'middle'}, labels[0]);
  element(svg, 'text', {class: 'axis-label', transform: `translate(12 ${top + box.height / 2}) rotate(-90)`,
    'text-anchor': 'middle'}, labels[1]);
  return {svg, below, atX, atY, box};
}

function scatter(figure, range) {
  const plot = figure.querySelector('.plot');
  const points = rows.map(r => ({...r, x: r.value('score_clean'), y: r.value('score_adversarial')}))
    .filter(p => Number.isFinite(p.x) && Number.isFinite(p.y)).sort((a, b) => a.x - b.x);
  if (!points.length) return plot.replaceChildren('No finite scores to draw.');
  const axis = axisOver([...range, ...points.flatMap(p => [p.x, p.y])], 5);
  const {svg, below, atX, atY} = frame(plot, axis, axis, ['Clean score', 'Adversarial score'],
    `Adversarial score against clean score of ${points.length} images; arrow keys move between the points.`, 'group');
  if (range.length)
    element(below, 'rect', {class: 'range', x: atX(range[0]), y: atY(range[1]), width: atX(range[1]) - atX(range[0]),
      height: atY(range[0]) - atY(range[1])});
  element(svg, 'line', {class: 'identity', x1: atX(axis.low), y1: atY(axis.low), x2: atX(axis.high), y2: atY(axis.high)});
  points.forEach((p, k) => {
    const target = document.getElementById(p.id.replace('row', 'image')) ? p.id.replace('row', 'image') : p.id;
    const text = `${p.name}: ${p.text('score_clean')} → ${p.text('score_adversarial')} (${p.text('change')})`;
    const link = element(svg, 'a', {href: '#' + target, 'aria-label': text, tabindex: k ? -1 : 0,
      class: p.y > p.x ? 'point raised' : p.y < p.x ? 'point lowered' : 'point'});
    element(link, 'circle', {cx: atX(p.x), cy: atY(p.y), r: points.length > 300 ? 3 : 4.5});
  });
  svg.classList.toggle('dense', points.length > 300);
  plot.replaceChildren(svg, tip(svg));
}

// The name beside a point under the mouse or the focus, and arrow keys from point to point.
function tip(svg) {
  const box = Object.assign(document.createElement('div'), {className: 'tip', hidden: true});
  box.setAttribute('aria-hidden', 'true');
  const links = [...svg.querySelectorAll('a')];
  const show = link => {
    box.hidden = !link;
    if (!link) return;
    const circle = link.firstChild, x = Number(circle.getAttribute('cx')), width = svg.clientWidth;
    box.textContent = link.getAttribute('aria-label');
    box.style.left = Math.max(0, Math.min(x - box.offsetWidth / 2, width - box.offsetWidth)) + 'px';
    const y = Number(circle.getAttribute('cy'));
    box.style.top = (y > box.offsetHeight + 16 ? y - box.offsetHeight - 10 : y + 12) + 'px';
  };
  for (const kind of ['pointerover', 'focusin']) svg.addEventListener(kind, event => show(event.target.closest('a')));
  for (const kind of ['pointerleave', 'focusout']) svg.addEventListener(kind, () => show(null));
  svg.addEventListener('keydown', event => {
    const here = links.indexOf(event.target), last = links.length - 1;
    const next = {ArrowRight: Math.min(here + 1, last), ArrowUp: Math.min(here + 1, last),
      ArrowLeft: Math.max(here - 1, 0), ArrowDown: Math.max(here - 1, 0), Home: 0, End: last}[event.key];
    if (here < 0 || next === undefined) return;
    event.preventDefault();
    links[here].setAttribute('tabindex', -1);
    links[next].setAttribute('tabindex', 0);
    links[next].focus();
  });
  return box;
}

function histogram(figure, range) {
  const plot = figure.querySelector('.plot'), column = figure.dataset.column, isChange = column === 'change';
  const values = rows.map(r => r.value(column)).filter(Number.isFinite);
  if (!values.length) return plot.replaceChildren('No finite scores to draw.');
  const bins = axisOver(isChange ? [0, ...values] : values, Math.min(20, Math.max(6, Math.sqrt(values.length))));
  const counts = new Array(bins.last - bins.first).fill(0);
  for (const v of values) counts[Math.min(counts.length - 1, Math.max(0, Math.floor(v / bins.step + 1e-9) - bins.first))]++;
  const x = axisOver(isChange ? [bins.low, bins.high] : [...range, bins.low, bins.high], 4);
  const y = axisOver([0, Math.max(1.08 * Math.max(...counts), 4)], 4);  // room for the label of the mean
  const mean = values.reduce((a, b) => a + b) / values.length, shown = minus(Number(mean.toPrecision(3)));
  const {svg, below, atX, atY, box} = frame(plot, x, y, [isChange ? 'Change of score' : 'Score', 'Images'],
    `Histogram of ${values.length} ${isChange ? 'changes of score' : 'scores'}, mean ${shown}.`, 'img');
  if (!isChange && range.length)
    element(below, 'rect', {class: 'range', x: atX(range[0]), y: box.y, width: atX(range[1]) - atX(range[0]), height: box.height});
  counts.forEach((count, k) => {
    const low = (bins.first + k) * bins.step, high = low + bins.step;
    const bar = element(svg, 'rect', {class: isChange ? (low < -bins.step / 2 ? 'bar lowered' : 'bar raised') : 'bar',
      x: atX(low) + 1, y: atY(count), width: Math.max(1, atX(high) - atX(low) - 2), height: atY(0) - atY(count), rx: 1.5});
    const ends = [low, high].map(v => minus(Number(v.toPrecision(6))));
    element(bar, 'title', {}, `${ends.join(' to ')}: ${count} ${count === 1 ? 'image' : 'images'}`);
  });
  if (isChange) element(svg, 'line', {class: 'axis', x1: atX(0), x2: atX(0), y1: box.y, y2: box.y + box.height});
  const right = atX(mean) > box.x + box.width * 0.7;
  element(svg, 'line', {class: 'identity', x1: atX(mean), x2: atX(mean), y1: box.y, y2: box.y + box.height});
  element(svg, 'text', {class: 'mean', x: atX(mean) + (right ? -6 : 6), y: box.y + 12, 'text-anchor': right ? 'end' : 'start'},
    `mean ${isChange && mean > 0 ? '+' : ''}${shown}`);
  plot.replaceChildren(svg);
}

for (const [id, draw] of [['scatter', scatter], ['histogram', histogram]]) {
  const figure = document.getElementById(id);
  if (!figure) continue;
  const {low, high} = figure.parentElement.dataset;
  const range = low === undefined ? [] : [Number(low), Number(high)];
  let width = 0;
  new ResizeObserver(([entry]) => {
    if (entry.contentRect.width < 120 || Math.abs(entry.contentRect.width - width) < 1) return;
    width = entry.contentRect.width;
    draw(figure, range);
  }).observe(figure.querySelector('.plot'));
}
