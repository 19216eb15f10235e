// From where clips of poses are seen: turned by dragging or by key, and back by a double click.

const TURN = 0.008; // radians a pixel
const EIGHTH = Math.PI / 4;

/** A view that several clips share; `number` changes whenever it does. */
export class View {
  turn = 0; // radians around the vertical
  tilt = 0; // radians up from where the clip is seen from at first
  number = 0;

  get straight() {
    return this.turn === 0 && this.tilt === 0;
  }

  /** Turn by so many radians. */
  by(turn, tilt = 0) {
    this.turn += turn;
    this.tilt = Math.min(Math.PI / 2, Math.max(-Math.PI / 2, this.tilt + tilt));
    this.number++;
  }

  eighth() {
    this.by(EIGHTH);
  }

  /** As at first. */
  reset() {
    this.turn = this.tilt = 0;
    this.number++;
  }
}

/** Turn a view by dragging over a surface with mouse or pen: fingers swipe, and a wheel scrolls. `can()` says whether there is anything to turn. */
export function turnBy(surface, view, can, onturn = () => {}) {
  let from = null;
  surface.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch" || event.button !== 0 || !can()) return;
    from = event;
    surface.setPointerCapture(event.pointerId);
    event.preventDefault(); // dragging selects no words
  });
  surface.addEventListener("pointermove", (event) => {
    if (from === null) return;
    view.by(-TURN * (event.clientX - from.clientX), TURN * (event.clientY - from.clientY));
    from = event;
    onturn();
  });
  for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) surface.addEventListener(kind, () => (from = null));
  surface.addEventListener("dblclick", () => {
    if (!can()) return;
    view.reset();
    onturn();
  });
}
