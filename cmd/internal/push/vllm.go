package push

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
)

// VLLM loads the adapter in the folder path, as the server sees it, under a name: requests
// that give the name as their model get the adapter. A name that is taken is an error, or
// with replace unloaded first. The server must run with --enable-lora and
// VLLM_ALLOW_RUNTIME_LORA_UPDATING=True. It gives the models that the server has then.
func (c *Client) VLLM(ctx context.Context, name, path string, replace bool) ([]string, error) {
	models, err := c.models(ctx)
	if err != nil {
		return nil, err
	}
	if slices.Contains(models, name) {
		if !replace {
			return nil, fmt.Errorf("push: the server has a model %q already: choose another name, or replace it", name)
		}
		if err := c.lora(ctx, "/v1/unload_lora_adapter", map[string]string{"lora_name": name}); err != nil {
			return nil, err
		}
	}
	if err := c.lora(ctx, "/v1/load_lora_adapter", map[string]string{"lora_name": name, "lora_path": path}); err != nil {
		return nil, err
	}
	if models, err = c.models(ctx); err != nil {
		return nil, err
	}
	if !slices.Contains(models, name) {
		return nil, fmt.Errorf("push: the server took %q, but does not list it among its models %q", name, models)
	}
	return models, nil
}

// lora calls an endpoint that is there only where the server allows it.
func (c *Client) lora(ctx context.Context, path string, body map[string]string) error {
	err := c.call(ctx, path, body, nil)
	var r *refusal
	if errors.As(err, &r) && (r.status == http.StatusNotFound && r.message == "Not Found" || r.status == http.StatusMethodNotAllowed) {
		return fmt.Errorf("%w: start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True", err)
	}
	return err
}

// models lists the names under which the server answers.
func (c *Client) models(ctx context.Context) ([]string, error) {
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if err := c.call(ctx, "/v1/models", nil, &list); err != nil {
		return nil, err
	}
	names := make([]string, len(list.Data))
	for i, m := range list.Data {
		names[i] = m.ID
	}
	return names, nil
}
