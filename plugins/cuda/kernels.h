// The plain C interface of the CUDA kernels: what torch (through ctypes) and the TensorRT plugins call.
//
// Every pointer is device memory, every integer 64 bits wide. A call enqueues on `stream` and returns at once: 0, or a
// cudaError_t. No call waits for the device, allocates or reads a value back, so all of them can be captured in a CUDA
// graph. `workspace` is scratch memory of the bytes that the function of the same name ending in `_workspace` says,
// aligned to 256 bytes; it need not be cleared.
//
// `dtype` is a VITCOP_FLOAT32, _FLOAT16 or _BFLOAT16; scores are always computed and compared in fp32. `index_bits`
// is 32 or 64, for the visual index and for all integer outputs of a call. Strides count elements; the last axis of
// keys is contiguous. Shapes: B batch, Nkv key-value heads, Nh query heads, S positions, D head dim, V visual tokens,
// K kept ones.
//
// NaN: a NaN score is the worst there is, whichever end is kept, so it stays only where nothing else is left;
// infinities compare as numbers. -0 equals 0. Ties go to the lowest index. A visual index outside 0..S-1 is never
// followed: such a token scores NaN. The visual index of a row must ascend strictly: where it does not, nothing is
// written outside an output, but parts of kept_positions may stay unwritten.
#pragma once

#include <stdint.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

// Raised when a call takes other arguments, or gives another result for the same ones.
#define VITCOP_ABI 2

enum { VITCOP_FLOAT32 = 0, VITCOP_FLOAT16 = 1, VITCOP_BFLOAT16 = 2 };

// keys [B,Nkv,S,D], visual_index [B,V] -> scores fp32 [B,V].
int vitcop_knorm_scores(const void* keys, int64_t dtype, int64_t stride_batch, int64_t stride_head,
                        int64_t stride_position, const void* visual_index, int64_t index_bits, float* scores,
                        int64_t batch, int64_t num_kv_heads, int64_t num_positions, int64_t head_dim,
                        int64_t num_visual, int64_t mean_norm, void* stream);

// The same scores, then the num_kept smallest (or largest): kept_positions [B,S-V+K], new_visual_index [B,K],
// kept_visual [B,K].
int64_t vitcop_knorm_select_workspace(int64_t batch, int64_t num_visual);
int vitcop_knorm_select(const void* keys, int64_t dtype, int64_t stride_batch, int64_t stride_head,
                        int64_t stride_position, const void* visual_index, int64_t index_bits, void* kept_positions,
                        void* new_visual_index, void* kept_visual, int64_t batch, int64_t num_kv_heads,
                        int64_t num_positions, int64_t head_dim, int64_t num_visual, int64_t num_kept, int64_t largest,
                        int64_t mean_norm, void* workspace, void* stream);

// The same selection by given scores [B,V] of any dtype.
int64_t vitcop_score_select_workspace(int64_t batch, int64_t num_visual);
int vitcop_score_select(const void* scores, int64_t dtype, const void* visual_index, int64_t index_bits,
                        void* kept_positions, void* new_visual_index, void* kept_visual, int64_t batch,
                        int64_t num_positions, int64_t num_visual, int64_t num_kept, int64_t largest, void* workspace,
                        void* stream);

// queries [B,Nh,D], keys [B,Nkv,S,D], attention_mask [B,S] (0 is padding) or null, visual_index [B,V] or null for the
// positions first_position..first_position+V-1 -> scores fp32 [B,V]: softmax over the unpadded sequence, summed over
// query heads. Text-query scores have a visual index, vision saliency skips the class token at position 0.
int64_t vitcop_query_scores_workspace(int64_t batch, int64_t num_heads, int64_t num_positions);
int vitcop_query_scores(const void* queries, const void* keys, int64_t dtype, int64_t stride_batch, int64_t stride_head,
                        int64_t stride_position, const void* attention_mask, const void* visual_index,
                        int64_t index_bits, int64_t first_position, float* scores, int64_t batch, int64_t num_heads,
                        int64_t num_kv_heads, int64_t num_positions, int64_t head_dim, int64_t num_visual, float scale,
                        void* workspace, void* stream);

// scores fp32 [B,V]: 1 at num_kept evenly spread tokens, else 0.
int vitcop_uniform_scores(float* scores, int64_t batch, int64_t num_visual, int64_t num_kept, void* stream);

// visual_positions [B,V] -> scores fp32 [B,V] in [0,1).
int vitcop_random_scores(const void* visual_positions, int64_t index_bits, float* scores, int64_t batch,
                         int64_t num_visual, int64_t seed, void* stream);

// features [B,K,D] contiguous, positions fp32 [B,K,2], group_ids [B,K] or null -> labels [B,K] in 0..num_centers-1.
// quantile_rank: which (from 0) of a row's K*K ascending squared distances is the squared cutoff, -1 to take
// cutoff_distance. The workspace begins with the squared distances fp32 [B,K,K] and the densities fp32 [B,K].
// A distance that is NaN or infinite counts as infinite: such a token is nobody's neighbour.
int64_t vitcop_density_peak_clusters_workspace(int64_t batch, int64_t num_tokens);
int vitcop_density_peak_clusters(const void* features, int64_t dtype, const float* positions, const void* group_ids,
                                 int64_t index_bits, void* labels, int64_t batch, int64_t num_tokens,
                                 int64_t num_features, int64_t num_centers, int64_t quantile_rank,
                                 float cutoff_distance, float spatial_radius, void* workspace, void* stream);

// scores [B,V] of any dtype, labels [B,V] in 0..num_clusters-1 (others count as the nearest of these) -> kept_positions
// [B,S-V+R], new_visual_index [B,R], kept_visual [B,R], assignment fp32 [B,R,V], R = num_groups.
int64_t vitcop_cluster_merge_plan_workspace(int64_t batch, int64_t num_visual, int64_t num_clusters,
                                            int64_t num_groups);
int vitcop_cluster_merge_plan(const void* scores, int64_t dtype, const void* labels, const void* visual_index,
                              int64_t index_bits, void* kept_positions, void* new_visual_index, void* kept_visual,
                              float* assignment, int64_t batch, int64_t num_positions, int64_t num_visual,
                              int64_t num_clusters, int64_t num_groups, int64_t mean, void* workspace, void* stream);

// The number of this interface: VITCOP_ABI of the header that the library was built with.
int64_t vitcop_abi(void);

// What a status other than 0 means.
const char* vitcop_error_text(int64_t status);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
