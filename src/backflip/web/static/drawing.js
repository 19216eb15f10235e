// One WebGL canvas for a whole page, that nobody sees: clips are drawn there one after another and copied from it.

import { BACKDROP, PART } from "./shaders.js";
import { triangles } from "./shapes.js";

const SIDE = 768; // pixels of a picture
const FRUGAL_SIDE = 320; // where the processor has to draw them: 9 ms for a Hopper
const SOFTWARE = /swiftshader|llvmpipe|softpipe|basic render|software/i;
const GONE_MS = 3000; // a graphics card that has not come back by then is taken for lost
const NUMBERS = { followed: 2, part: 7 }; // as in poses.js
const NEVER = 1e9; // further along the axis than any part reaches
const PERIOD = 2; // lines from one place to the next that looks the same: light and dark tiles alternate
const MESHES = { sphere: "ball", ellipsoid: "ball", capsule: "ball", cylinder: "tube", box: "box" };

let ofPage; // undefined until somebody asks

export class Drawing {
  #gl;
  #spans;
  #backdrop;
  #part;
  #lostAt = null;

  /** That of this page; null where the browser cannot do this. */
  static ofPage() {
    ofPage ??= Drawing.#made();
    return ofPage?.gone ? null : ofPage;
  }

  static #made() {
    const canvas = document.createElement("canvas");
    const gl = canvas.getContext("webgl2", { alpha: false, antialias: true, depth: true, stencil: true });
    if (gl === null) return null;
    const frugal = SOFTWARE.test(rendererOf(gl));
    canvas.width = canvas.height = frugal ? FRUGAL_SIDE : SIDE;
    try {
      return new Drawing(canvas, gl, frugal);
    } catch (error) {
      console.warn(`clips are not drawn here: ${error.message}`);
      return null;
    }
  }

  constructor(canvas, gl, frugal) {
    this.canvas = canvas;
    this.frugal = frugal; // the processor draws: every picture costs much
    this.number = 0; // another one: what was drawn may look otherwise now
    this.#gl = gl;
    this.#build();
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault(); // let it come back
      this.#lostAt = performance.now();
    });
    canvas.addEventListener("webglcontextrestored", () => {
      this.#build();
      this.#lostAt = null;
      this.number++;
    });
  }

  /** Whether it was lost and will hardly come back. */
  get gone() {
    return this.#lostAt !== null && performance.now() - this.#lostAt > GONE_MS;
  }

  /** Draw a moment of a clip on the canvas; false if that cannot be now. */
  draw(geometry, moment, turn, tilt) {
    const gl = this.#gl;
    if (this.#lostAt !== null || gl.isContextLost()) return false;
    this.#paint(geometry, moment, cameraOf(geometry, turn, tilt));
    return true;
  }

  #build() {
    const gl = this.#gl;
    const { corners, order, spans } = triangles();
    this.#spans = spans;
    this.#backdrop = program(gl, BACKDROP);
    this.#part = program(gl, PART);
    gl.enable(gl.CULL_FACE);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, corners, gl.STATIC_DRAW);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, order, gl.STATIC_DRAW);
    for (const [i, size, offset] of [[0, 3, 0], [1, 3, 12], [2, 1, 24]]) {
      gl.enableVertexAttribArray(i);
      gl.vertexAttribPointer(i, size, gl.FLOAT, false, 28, offset);
    }
  }

  #paint(geometry, moment, camera) {
    const gl = this.#gl;
    const { floor } = geometry;
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.disable(gl.DEPTH_TEST);
    gl.disable(gl.STENCIL_TEST);
    gl.disable(gl.BLEND);
    const light = unit(geometry.light);
    const shared = { basis: camera.basis, eye: camera.eye, distance_: geometry.camera.distance, spread: camera.spread, floorAt: floor.height, light };
    const period = PERIOD * floor.line_tiles * floor.tile; // places far away stay exact
    this.#backdrop.use({
      ...shared,
      followed: [moment[0] % period, moment[1] % period],
      sky: geometry.sky,
      horizon: geometry.horizon,
      ground: floor.colour,
      tones: [floor.light, floor.dark, floor.line],
      tiling: [floor.tile, floor.line_tiles, floor.line_thickness],
    });
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    gl.clear(gl.DEPTH_BUFFER_BIT | gl.STENCIL_BUFFER_BIT);
    this.#part.use({ ...shared, head: geometry.head, shade: floor.shadow });
    const parts = geometry.parts.map((part, i) => placed(part, moment, NUMBERS.followed + NUMBERS.part * i));
    gl.enable(gl.STENCIL_TEST); // where several shadows lie it is no darker
    gl.stencilFunc(gl.EQUAL, 0, 0xff);
    gl.stencilOp(gl.KEEP, gl.KEEP, gl.INCR);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ZERO, gl.SRC_COLOR);
    this.#solids(parts, true);
    gl.disable(gl.STENCIL_TEST);
    gl.disable(gl.BLEND);
    gl.enable(gl.DEPTH_TEST);
    this.#solids(parts, false);
  }

  #solids(parts, fallen) {
    for (const { mesh, ...uniforms } of parts) {
      this.#part.use({ ...uniforms, fallen });
      const { count, begin } = this.#spans[mesh];
      this.#gl.drawElements(this.#gl.TRIANGLES, count, this.#gl.UNSIGNED_SHORT, 2 * begin);
    }
  }
}

/** Its name, as far as the browser tells. */
function rendererOf(gl) {
  const told = gl.getExtension("WEBGL_debug_renderer_info");
  return String(gl.getParameter(told ? told.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
}

/** How the camera stands, around the place that the robot is followed to. */
function cameraOf({ camera }, turn, tilt) {
  const up = Math.min(-0.02, Math.max(-Math.PI / 2 + 1e-3, (camera.elevation * Math.PI) / 180 - tilt));
  const [ct, st, cu, su] = [Math.cos(turn), Math.sin(turn), Math.cos(up), Math.sin(up)];
  const ahead = [-st * cu, ct * cu, su];
  return {
    basis: [ct, st, 0, st * su, -ct * su, cu, ...ahead],
    eye: [0, 0, camera.height].map((at, i) => at - camera.distance * ahead[i]),
    spread: Math.tan((camera.field_of_view * Math.PI) / 360),
  };
}

/** A part where it is at a moment, as what the shader wants to know. */
function placed({ shape, size, colour, head }, moment, i) {
  const [radius, second, third] = size;
  const [stretch, reach] = {
    sphere: [[radius, radius, radius], 0],
    capsule: [[radius, radius, radius], second],
    cylinder: [[radius, radius, 1], second],
  }[shape] ?? [[radius, second, third], 0];
  return {
    mesh: MESHES[shape],
    stretch,
    reach,
    base: colour,
    headFrom: head ?? NEVER,
    place: [moment[i] - moment[0], moment[i + 1] - moment[1], moment[i + 2]],
    turn: rotation(moment[i + 3], moment[i + 4], moment[i + 5], moment[i + 6]),
  };
}

/** The matrix of a rotation, column by column; it need not be of length 1. */
function rotation(w, x, y, z) {
  const s = 2 / (w * w + x * x + y * y + z * z);
  return [
    1 - s * (y * y + z * z), s * (x * y + w * z), s * (x * z - w * y),
    s * (x * y - w * z), 1 - s * (x * x + z * z), s * (y * z + w * x),
    s * (x * z + w * y), s * (y * z - w * x), 1 - s * (x * x + y * y),
  ];
}

function unit(vector) {
  const length = Math.hypot(...vector);
  return vector.map((part) => part / length);
}

/** A compiled program whose uniforms are set by name. */
function program(gl, { vertex, fragment }) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) {
    const logs = gl.getAttachedShaders(made).map((shader) => gl.getShaderInfoLog(shader));
    throw new Error([gl.getProgramInfoLog(made), ...logs].join(" "));
  }
  const setters = {};
  for (let i = 0; i < gl.getProgramParameter(made, gl.ACTIVE_UNIFORMS); i++) {
    const { name, type } = gl.getActiveUniform(made, i);
    const where = gl.getUniformLocation(made, name);
    setters[name] = {
      [gl.FLOAT]: (value) => gl.uniform1f(where, value),
      [gl.BOOL]: (value) => gl.uniform1i(where, value),
      [gl.FLOAT_VEC2]: (value) => gl.uniform2fv(where, value),
      [gl.FLOAT_VEC3]: (value) => gl.uniform3fv(where, value),
      [gl.FLOAT_MAT3]: (value) => gl.uniformMatrix3fv(where, false, value),
    }[type];
  }
  return {
    use(values) {
      gl.useProgram(made);
      for (const [name, value] of Object.entries(values)) setters[name]?.(value);
    },
  };
}
