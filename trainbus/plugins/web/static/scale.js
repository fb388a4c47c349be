// Axes: round tick values, linear and logarithmic.

export function ticks(low, high, count) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const rough = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  const result = [];
  for (let index = Math.ceil(low / step); index * step <= high + step * 1e-9; index += 1) result.push(index * step);
  return result;
}

export function logTicks(low, high, count) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const every = Math.max(1, Math.ceil((last - first) / Math.max(1, count)));
  const factors = last - first <= 2 ? [1, 2, 5] : [1];
  const result = [];
  for (let power = first; power <= last; power += every) {
    for (const factor of factors) {
      const value = factor * 10 ** power;
      if (value >= low && value <= high) result.push(value);
    }
  }
  return result.length > 1 ? result : ticks(low, high, count);
}

// Maps values of [low, high] to pixels of [from, to].
export function scale(low, high, from, to, logarithmic = false) {
  const transform = logarithmic ? Math.log : (value) => value;
  const [start, end] = [transform(low), transform(high)];
  const factor = end === start ? 0 : (to - from) / (end - start);
  return (value) => (factor === 0 ? (from + to) / 2 : from + (transform(value) - start) * factor);
}

// Exponential moving average without the pull to its first value; `weight` 0 changes nothing.
export function smooth(values, weight) {
  let [sum, norm] = [0, 0];
  return values.map((value) => {
    sum = sum * weight + value * (1 - weight);
    norm = norm * weight + (1 - weight);
    return sum / norm;
  });
}
