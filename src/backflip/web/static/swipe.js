// Answers by swiping over the clips with one finger; two fingers are for whoever draws them.

const FAR_PX = 56; // less is a tap, or a thumb that trembles
const STRAIGHT = 1.4; // so much longer than wide

/** onmove(direction or null) while the finger is down, onswipe(direction, event) when it goes up. */
export function listenForSwipes(surface, { onmove, onswipe }) {
  const down = new Map(); // pointers on the surface, and where they began
  let alone = false; // whether there has been one finger only since all were up

  surface.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "touch") return;
    alone = down.size === 0;
    down.set(event.pointerId, event);
    if (!alone) onmove(null);
  });
  addEventListener("pointermove", (event) => {
    if (alone && down.has(event.pointerId)) onmove(direction(down.get(event.pointerId), event));
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    addEventListener(kind, (event) => {
      const began = down.get(event.pointerId);
      if (!down.delete(event.pointerId)) return;
      onmove(null);
      const swiped = kind === "pointerup" && alone ? direction(began, event) : null;
      if (swiped !== null) onswipe(swiped, event);
    });
  }
}

function direction(from, to) {
  const [x, y] = [to.clientX - from.clientX, to.clientY - from.clientY];
  const [wide, high] = [Math.abs(x), Math.abs(y)];
  if (Math.max(wide, high) < FAR_PX || Math.max(wide, high) < STRAIGHT * Math.min(wide, high)) return null;
  return wide > high ? (x < 0 ? "left" : "right") : y < 0 ? "up" : "down";
}
