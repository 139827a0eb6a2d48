/* The binary layout of bei.h on 64-bit machines. A number here changes only together with the SONAME. */
#include "bei.h"

#define SIZE(type, size) _Static_assert(sizeof(type) == (size), "size of " #type)
#define AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), "offset of " #type "." #field)

SIZE(size_t, 8);
SIZE(void *, 8);
SIZE(bei_handle, 8);
SIZE(bei_result, 8);
SIZE(bei_cancel, 8);

SIZE(bei_batch, 112);
AT(bei_batch, struct_size, 0);
AT(bei_batch, input_ids, 8);
AT(bei_batch, token_type_ids, 16);
AT(bei_batch, position_ids, 24);
AT(bei_batch, total_tokens, 32);
AT(bei_batch, cumulative_seq_lengths, 40);
AT(bei_batch, num_sequences, 48);
AT(bei_batch, pooled_indices, 56);
AT(bei_batch, num_pooled, 64);
AT(bei_batch, raw_indices, 72);
AT(bei_batch, num_raw, 80);
AT(bei_batch, sparse_indices, 88);
AT(bei_batch, num_sparse, 96);
AT(bei_batch, max_length, 104);
AT(bei_batch, reserved, 108);

SIZE(bei_text, 40);
AT(bei_text, text, 0);
AT(bei_text, text_size, 8);
AT(bei_text, pair, 16);
AT(bei_text, pair_size, 24);
AT(bei_text, outputs, 32);
AT(bei_text, reserved, 36);

SIZE(bei_span, 8);
AT(bei_span, start, 0);
AT(bei_span, end, 4);

SIZE(bei_call_options, 80);
AT(bei_call_options, struct_size, 0);
AT(bei_call_options, timeout_us, 8);
AT(bei_call_options, cancel, 16);
AT(bei_call_options, prompt_name, 24);
AT(bei_call_options, prompt_name_size, 32);
AT(bei_call_options, truncate, 40);
AT(bei_call_options, truncation_side, 44);
AT(bei_call_options, dimensions, 48);
AT(bei_call_options, normalize, 52);
AT(bei_call_options, priority, 56);
AT(bei_call_options, add_special_tokens, 60);
AT(bei_call_options, skip_special_tokens, 64);
AT(bei_call_options, aggregation, 68);
AT(bei_call_options, dynamic_batching, 72);
AT(bei_call_options, caller_runs, 76);

SIZE(bei_info, 80);
AT(bei_info, struct_size, 0);
AT(bei_info, api_version, 8);
AT(bei_info, model_type, 12);
AT(bei_info, pooling, 16);
AT(bei_info, dimensions, 20);
AT(bei_info, token_dimensions, 24);
AT(bei_info, labels, 28);
AT(bei_info, vocab_size, 32);
AT(bei_info, type_vocab_size, 36);
AT(bei_info, position_offset, 40);
AT(bei_info, max_length, 44);
AT(bei_info, max_tokens, 48);
AT(bei_info, max_sequences, 52);
AT(bei_info, best_tokens, 56);
AT(bei_info, slots, 60);
AT(bei_info, is_padded, 64);
AT(bei_info, has_tokenizer, 68);
AT(bei_info, normalizes, 72);
AT(bei_info, reserved, 76);

SIZE(bei_tokens, 80);
AT(bei_tokens, struct_size, 0);
AT(bei_tokens, count, 8);
AT(bei_tokens, ids, 16);
AT(bei_tokens, type_ids, 24);
AT(bei_tokens, special, 32);
AT(bei_tokens, sequence, 40);
AT(bei_tokens, starts, 48);
AT(bei_tokens, ends, 56);
AT(bei_tokens, pieces, 64);
AT(bei_tokens, piece_offsets, 72);

SIZE(bei_entity, 24);
AT(bei_entity, label, 0);
AT(bei_entity, score, 4);
AT(bei_entity, start, 8);
AT(bei_entity, end, 12);
AT(bei_entity, token, 16);
AT(bei_entity, reserved, 20);

SIZE(bei_stats, 56);
AT(bei_stats, struct_size, 0);
AT(bei_stats, total_ns, 8);
AT(bei_stats, tokenization_ns, 16);
AT(bei_stats, queue_ns, 24);
AT(bei_stats, inference_ns, 32);
AT(bei_stats, tokens, 40);
AT(bei_stats, runs, 48);
