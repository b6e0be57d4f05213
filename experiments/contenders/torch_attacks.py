"""The attacks that speed is measured on, in PyTorch, by their names in `experiments.catalog`.

They are loops over one image as in the published repositories; tests hold this library's results against theirs.
"""

from collections.abc import Callable, Mapping

from experiments.contenders import torch_ball, torch_hidden, torch_transfer, torch_warps
from experiments.contenders.torch_steps import Images

ATTACKS: Mapping[str, Callable[..., Images]] = {
    attack.__name__: attack
    for attack in (
        *(torch_ball.ifgsm, torch_ball.mifgsm, torch_ball.mifgsm_raw, torch_ball.amifgsm),
        *(torch_ball.pgd_linf, torch_ball.pgd_l2, torch_ball.apgd),
        *(torch_transfer.nifgsm, torch_transfer.difgsm, torch_transfer.tifgsm, torch_transfer.vmifgsm),
        *(torch_hidden.madc, torch_hidden.madc_linf, torch_hidden.korhonen, torch_hidden.korhonen_msu),
        *(torch_hidden.perceptual, torch_hidden.perceptual_code, torch_hidden.perceptual_msu),
        *(torch_hidden.perceptual_linf, torch_hidden.perceptual_ssim, torch_hidden.ssah),
        *(torch_warps.stadv, torch_warps.stadv_adam, torch_warps.advcf, torch_warps.advcf_adam),
    )
}
