/* The canvas losses of clips of 8-bit frames: every clip's canvas is painted and compared frame by
 * frame, so that it stays in a core's cache, and threads share the clips.
 *
 * Pixels are counted in grey levels, 0 to 255, as the frames hold them: what is painted at the
 * finest scale is then the frame itself, bit by bit. A coarser scale is made only where one of its
 * patches is gazed at, and enlarged only under these.
 *
 * Threads are those of the caller's OpenMP, whose GOMP_parallel is handed in.
 */
#include <stdint.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define W 16 /* lanes of a vector; the compiler splits it where the processor has fewer */
#define TAPS 4

typedef float vec __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * W)));
typedef uint8_t bytes __attribute__((vector_size(W), aligned(1), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 4")

typedef void Task(void *);
typedef void Parallel(Task *, void *, unsigned, unsigned);

typedef struct {
    int32_t scale, grid;  /* pixels of the scale, cells of it a side */
    const int32_t *edges; /* [grid + 1] boundaries of cells, in pixels of the frame */
    /* Of coarser scales: pixels of the frame under each of its own, and their shares ... */
    const int32_t *first, *past; /* [scale] */
    const float *shares;         /* [scale][side] */
    /* ... and its pixels around each of the frame's, and their weights. */
    const int32_t *around; /* [side][TAPS] */
    const float *weights;  /* [side][TAPS] */
} Level;

typedef struct {
    Parallel *parallel;
    int32_t threads, levels, side, patches;
    int64_t clips, frames;
    const Level *level;         /* coarse to fine; the last is the frame itself */
    const uint8_t *pixels;      /* clips, frames, [3][side][side] */
    int64_t clip_step, frame_step;
    const uint8_t *gazed;       /* [clips][frames][patches], 1 where a patch is gazed at */
    const uint8_t *restarts;    /* [frames], 1 where the canvas begins again in grey */
    float *canvases;            /* [clips][3][side][side], grey levels: before, and after */
    float *scratch;             /* [threads][2][3][side][side] */
    float *losses;              /* [clips][frames], in [0, 1] */
    uint8_t *pictures;          /* [clips][frames][3][side][side], the canvas after every frame, or NULL */
} Work;

typedef struct {
    const Work *work;
    int64_t next;
    int32_t thread;
} Shared;

INLINE vec floats_of(const uint8_t *from) {
#ifdef __AVX512F__ /* where GCC would take them one by one */
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)from)));
#else
    return __builtin_convertvector(*(bytes *)from, vec);
#endif
}

INLINE vec magnitude(vec x) { return (vec)((ivec)x & 0x7fffffff); }

/* Box averages of a frame at a coarser scale, [3][scale][scale]. */
static void shrink(const Level *level, int64_t side, const uint8_t *frame, float *rows, float *small) {
    const int scale = level->scale;
    const int64_t whole = side / W * W;
    for (int c = 0; c < 3; c++, frame += side * side) {
        for (int i = 0; i < scale; i++) {
            const float *share = level->shares + i * side;
            const int first = level->first[i], past = level->past[i];
            for (int x = 0; x < whole; x += W) {
                vec sum = {0};
                for (int y = first; y < past; y++) sum += floats_of(frame + y * side + x) * share[y];
                *(vec *)(rows + x) = sum;
            }
            for (int64_t x = whole; x < side; x++) {
                float sum = 0;
                for (int y = first; y < past; y++) sum += frame[y * side + x] * share[y];
                rows[x] = sum;
            }
            for (int j = 0; j < scale; j++) {
                const float *across = level->shares + j * side;
                float sum = 0;
                for (int x = level->first[j]; x < level->past[j]; x++) sum += rows[x] * across[x];
                *small++ = sum;
            }
        }
    }
}

/* Paint one square, [top, bottom) x [left, right), enlarged bicubically from a coarser scale. */
static void paint_coarse(const Level *level, int64_t side, const float *small, const int32_t *square,
                         float *wide, float *canvas) {
    const int top = square[0], bottom = square[1], left = square[2], right = square[3];
    const int scale = level->scale, width = right - left;
    const int begin = level->around[top * TAPS], end = level->around[bottom * TAPS - 1] + 1;
    for (int c = 0; c < 3; c++, small += scale * scale, canvas += side * side) {
        for (int x = 0; x < width; x++) {
            const int32_t *at = level->around + (left + x) * TAPS;
            const float *by = level->weights + (left + x) * TAPS;
            for (int i = begin; i < end; i++) {
                const float *row = small + i * scale;
                wide[i * side + x] =
                    row[at[0]] * by[0] + row[at[1]] * by[1] + row[at[2]] * by[2] + row[at[3]] * by[3];
            }
        }
        for (int y = top; y < bottom; y++) {
            const int32_t *at = level->around + y * TAPS;
            const float *by = level->weights + y * TAPS;
            const float *a = wide + at[0] * side, *b = wide + at[1] * side;
            const float *d = wide + at[2] * side, *e = wide + at[3] * side;
            float *to = canvas + y * side + left;
            for (int x = 0; x < width; x++) {
                const float sum = a[x] * by[0] + b[x] * by[1] + d[x] * by[2] + e[x] * by[3];
                to[x] = sum < 0 ? 0 : sum > 255 ? 255 : sum; /* bicubic overshoots */
            }
        }
    }
}

static void paint_fine(int64_t side, const uint8_t *frame, const int32_t *square, float *canvas) {
    for (int c = 0; c < 3; c++, frame += side * side, canvas += side * side)
        for (int y = square[0]; y < square[1]; y++) {
            const uint8_t *from = frame + y * side;
            float *to = canvas + y * side;
            int x = square[2];
            for (; x + W <= square[3]; x += W) *(vec *)(to + x) = floats_of(from + x);
            for (; x < square[3]; x++) to[x] = from[x];
        }
}

/* Sum of |canvas - frame|, in grey levels. */
static double error_of(int64_t side, const uint8_t *frame, const float *canvas) {
    const int64_t num = 3 * side * side, whole = num / W * W;
    double total = 0;
    for (int64_t at = 0; at < whole;) {
        vec sum = {0}; /* of few numbers at a time, or rounding would add up */
        const int64_t end = at + 128 * W < whole ? at + 128 * W : whole;
        UNROLL for (; at < end; at += W)
            sum += magnitude(floats_of(frame + at) - *(vec *)(canvas + at));
        for (int l = 0; l < W; l++) total += sum[l];
    }
    for (int64_t at = whole; at < num; at++) {
        const float off = frame[at] - canvas[at];
        total += off < 0 ? -off : off;
    }
    return total;
}

static void paint(const Work *work, const uint8_t *frame, const uint8_t *gazed, float *scratch,
                  float *canvas) {
    const int64_t side = work->side, area = 3 * side * side;
    for (int l = 0; l < work->levels; l++) { /* ascending: the finest is painted on top */
        const Level *level = work->level + l;
        int made = l == work->levels - 1;
        for (int row = 0; row < level->grid; row++)
            for (int column = 0; column < level->grid; column++) {
                if (!*gazed++) continue;
                const int32_t *down = level->edges + row, *across = level->edges + column;
                const int32_t square[4] = {down[0], down[1], across[0], across[1]};
                if (!made) shrink(level, side, frame, scratch + area, scratch);
                made = 1;
                if (l == work->levels - 1) paint_fine(side, frame, square, canvas);
                else paint_coarse(level, side, scratch, square, scratch + area, canvas);
            }
    }
}

/* Grey levels to the nearest byte, of two the even one. */
static void bytes_of(int64_t num, const float *canvas, uint8_t *to) {
    for (int64_t i = 0; i < num; i++) to[i] = (uint8_t)__builtin_rintf(canvas[i]);
}

static void measure_some(void *data) {
    Shared *shared = data;
    const Work *work = shared->work;
    const int64_t area = 3 * (int64_t)work->side * work->side;
    const int thread = __atomic_fetch_add(&shared->thread, 1, __ATOMIC_RELAXED);
    float *scratch = work->scratch + thread * 2 * area;
    int64_t clip;
    while ((clip = __atomic_fetch_add(&shared->next, 1, __ATOMIC_RELAXED)) < work->clips) {
        float *canvas = work->canvases + clip * area;
        for (int64_t t = 0; t < work->frames; t++) {
            const uint8_t *frame = work->pixels + clip * work->clip_step + t * work->frame_step;
            if (work->restarts[t])
                for (int64_t i = 0; i < area; i++) canvas[i] = 127.5f;
            const int64_t at = clip * work->frames + t;
            paint(work, frame, work->gazed + at * work->patches, scratch, canvas);
            work->losses[at] = (float)(error_of(work->side, frame, canvas) / (255.0 * area));
            if (work->pictures) bytes_of(area, canvas, work->pictures + at * area);
        }
    }
}

void measure(const Work *work) {
    Shared shared = {work, 0, 0};
    const int threads = work->clips < work->threads ? (int)work->clips : work->threads;
    if (threads > 1) work->parallel(measure_some, &shared, (unsigned)threads, 0);
    else measure_some(&shared);
}
