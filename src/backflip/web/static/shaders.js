// What the graphics card does: the same light, floor and sky as backflip.envs.painter, from any side.

const CAMERA = `#version 300 es
precision highp float;
uniform mat3 basis; // to the right, up, and the way the camera looks
uniform vec3 eye;
uniform float distance_; // to what it looks at
uniform float spread; // tangent of half the field of view
uniform float floorAt;
uniform vec3 light; // towards it
float fog(float far) {
  float beyond = max(far / distance_ - 1.0, 0.0) / 3.5;
  return 1.0 - exp(-beyond * beyond);
}
`;

export const BACKDROP = {
  vertex: `${CAMERA}
out vec2 seen;
void main() { // one triangle that covers everything
  seen = vec2(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0);
  gl_Position = vec4(seen, 0.0, 1.0);
}`,
  fragment: `${CAMERA}
uniform vec2 followed; // how far the camera is from where the tiles begin
uniform vec3 sky, horizon, ground;
uniform vec3 tones; // of light tiles, dark tiles and lines
uniform vec3 tiling; // a tile's side, tiles from line to line, a line's thickness in tiles
in vec2 seen;
out vec4 colour;
float sawtooth(float at) { return -abs(at - 2.0 * floor(0.5 * at) - 1.0); }
float stripes(float at, float wide) { return (sawtooth(at + 0.5 * wide) - sawtooth(at - 0.5 * wide)) / wide; }
float line(float at, float wide, float thick) {
  float away = abs(at - round(at));
  return clamp((0.5 * (thick + wide) - away) / wide, 0.0, min(1.0, thick / wide));
}
void main() {
  vec3 ray = basis * vec3(seen * spread, 1.0);
  float far = (floorAt - eye.z) / min(ray.z, -1e-3);
  vec2 at = (eye.xy + far * ray.xy + followed) / tiling.x;
  vec2 wide = max(fwidth(at), 1e-5); // averaged over the pixel, or tiles far away would flicker
  if (ray.z < -1e-3) {
    float tone = mix(tones.y, tones.x, 0.5 + 0.5 * stripes(at.x, wide.x) * stripes(at.y, wide.y));
    tone = mix(tone, tones.z, line(at.x / tiling.y, wide.x / tiling.y, tiling.z / tiling.y));
    colour = vec4(mix(ground * tone, horizon, fog(far)), 1.0);
  } else {
    colour = vec4(mix(horizon, sky, 4.0 * clamp(normalize(ray).z, 0.0, 0.25)), 1.0);
  }
}`,
};

const SOLID = `${CAMERA}
uniform vec3 stretch;
uniform float reach; // of the ends from the middle
uniform mat3 turn;
uniform vec3 place;
uniform bool fallen; // its shadow rather than itself
`;

export const PART = {
  vertex: `${SOLID}
layout(location = 0) in vec3 corner;
layout(location = 1) in vec3 upright;
layout(location = 2) in float end;
out vec3 world, normal;
out float along;
void main() {
  vec3 local = corner * stretch + vec3(0.0, 0.0, end * reach);
  world = turn * local + place;
  normal = turn * (upright / stretch);
  along = local.z;
  if (fallen) world = vec3(world.xy - light.xy / light.z * max(world.z - floorAt, 0.0), floorAt);
  vec3 seen = (world - eye) * basis;
  float near = 0.05 * distance_, far = 40.0 * distance_;
  gl_Position = vec4(seen.xy / spread, (seen.z * (far + near) - 2.0 * far * near) / (far - near), seen.z);
}`,
  fragment: `${SOLID}
uniform vec3 base, head;
uniform float headFrom;
uniform float shade;
in vec3 world, normal;
in float along;
out vec4 colour;
void main() {
  if (fallen) {
    colour = vec4(vec3(mix(shade, 1.0, fog(((world - eye) * basis).z))), 1.0);
    return;
  }
  if (world.z < floorAt - 1e-3) discard;
  vec3 upright = normalize(normal), towards = normalize(eye - world);
  float facing = clamp(dot(upright, towards), 0.0, 1.0), lamp = clamp(dot(upright, light), 0.0, 1.0);
  float shine = pow(clamp(dot(upright, normalize(towards + light)), 0.0, 1.0), 32.0);
  float bright = (0.46 + 0.14 * upright.z + 0.52 * lamp) * (0.55 + 0.45 * sqrt(facing));
  colour = vec4((along > headFrom ? head : base) * bright + 0.16 * shine, 1.0);
}`,
};
