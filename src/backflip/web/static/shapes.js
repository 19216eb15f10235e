// The solids that robots are made of, as triangles: a point on the unit shape, its normal, and which end of the axis it
// moves along with. Every size comes out of these by stretching the point and moving the ends apart.

const AROUND = 18; // sides of what is round
const UP = 5; // rings from its middle to a pole

/** {corners, order, spans}: seven floats a corner, three corners a triangle, and for each shape how many of the order, and from where. */
export function triangles() {
  const known = new Map();
  const order = [];
  const spans = {};
  for (const [name, make] of [["ball", ball], ["tube", tube], ["box", box]]) {
    const begin = order.length;
    make((...three) => {
      for (const corner of outwards(three)) {
        const key = corner.map((part) => part.toFixed(5)).join();
        if (!known.has(key)) known.set(key, { corner, at: known.size });
        order.push(known.get(key).at);
      }
    });
    spans[name] = { count: order.length - begin, begin };
  }
  return { corners: new Float32Array([...known.values()].flatMap(({ corner }) => corner)), order: new Uint16Array(order), spans };
}

/** A triangle's corners counterclockwise as seen from outside: what faces away need not be drawn. */
function outwards([a, b, c]) {
  const [p, q, r] = [a, b, c].map(([x, y, z, , , , end]) => [x, y, z + end]);
  const [u, v] = [q, r].map((corner) => corner.map((part, i) => part - p[i]));
  const normal = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
  const along = normal.reduce((sum, part, i) => sum + part * (a[3 + i] + b[3 + i] + c[3 + i]), 0);
  return along < 0 ? [a, c, b] : [a, b, c];
}

/** Both halves of a ball, and what is between them when they are moved apart. */
function ball(add) {
  const latitudes = [];
  for (let i = -UP; i <= UP; i++) {
    if (i <= 0) latitudes.push([i, -1]);
    if (i >= 0) latitudes.push([i, 1]);
  }
  const point = ([latitude, end], i) => {
    const up = (latitude / UP) * (Math.PI / 2);
    const [x, y] = around(i);
    const at = [Math.cos(up) * x, Math.cos(up) * y, Math.sin(up)];
    return [...at, ...at, end];
  };
  for (let ring = 0; ring + 1 < latitudes.length; ring++) {
    for (let i = 0; i < AROUND; i++) square(add, (up, on) => point(latitudes[ring + up], i + on));
  }
}

/** The mantle of a cylinder and its two lids. */
function tube(add) {
  for (let i = 0; i < AROUND; i++) {
    const rim = (on) => around(i + on);
    square(add, (up, on) => [...rim(on), 0, ...rim(on), 0, 2 * up - 1]);
    for (const end of [-1, 1]) add([0, 0, 0, 0, 0, end, end], [...rim(0), 0, 0, 0, end, end], [...rim(1), 0, 0, 0, end, end]);
  }
}

function box(add) {
  for (const axis of [0, 1, 2]) {
    for (const end of [-1, 1]) {
      square(add, (up, on) => {
        const at = [0, 0, 0];
        const normal = [0, 0, 0];
        at[axis] = normal[axis] = end;
        at[(axis + 1) % 3] = 2 * up - 1;
        at[(axis + 2) % 3] = 2 * on - 1;
        return [...at, ...normal, 0];
      });
    }
  }
}

const around = (i) => [Math.cos((2 * Math.PI * i) / AROUND), Math.sin((2 * Math.PI * i) / AROUND)];

function square(add, corner) {
  add(corner(0, 0), corner(0, 1), corner(1, 1));
  add(corner(0, 0), corner(1, 1), corner(1, 0));
}
